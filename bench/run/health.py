"""The health pass from the parent's side: the case's own run, its fp32 reference, the judgement.

A pass that fails costs the row its health, with the reason, and never its number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from bench.backends import registry
from bench.results import health
from bench.results.cache import Cache
from bench.results.health import HealthRun
from bench.results.record import Health, Outcome, Phase
from bench.run import launching, recording
from bench.run.ending import End
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned, replanned
from bench.scenarios.schema import Knobs, Measure
from bench.worker.job import Event

_KIND = "health"
HealthRunner = Callable[[Order, Callable[[Event], None], Callable[[], bool]], HealthRun | End]


class HealthPass:
    """Finds out whether cases still train.

    Args:
        results: Folder in whose cache references are kept from one session to the next.
        runner: What runs one pass.
    """

    def __init__(self, results: Path, runner: HealthRunner = launching.run_health) -> None:
        self._cache = Cache(results, _KIND)
        self._runner = runner
        self._references: dict[str, HealthRun | End] = {}

    def examine(
        self, order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]
    ) -> Health:
        """Return the health of a training case.

        Where the case is what its reference would be, one run is both, and the gap is 0.

        Args:
            order: Of the pass; its timeout is for the case's own run and the reference together.
            on_event: Told of the progress of both.
            stop: Asked often; true ends the pass.

        Raises:
            Interrupted: `stop` said so.
        """
        if stop():
            raise Interrupted(Phase.HEALTH)
        measure, classes = order.planned.case.measure, order.planned.case.knobs.classes
        own, reference = self._run_both(order, on_event, stop)
        if isinstance(own, End):
            reason = f"the health pass {_told(own)}"
            return health.unknown(measure.health_steps, classes, reason)
        if isinstance(reference, End):
            return health.judge(own, None, classes, f"the fp32 reference {_told(reference)}")
        return health.judge(own, reference, classes)

    def _run_both(
        self, order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]
    ) -> tuple[HealthRun | End, HealthRun | End]:
        begin = time.monotonic()
        case = passing(order.planned)
        reference, key = reference_of(order.planned)
        if case.case.knobs == reference.case.knobs:
            both = self._reference(replace(order, planned=case), key, on_event, stop)
            return both, both
        own = recording.refused(case) or self._runner(replace(order, planned=case), on_event, stop)
        if isinstance(own, End):
            return own, own
        left_s = max(0.0, order.timeout_s - (time.monotonic() - begin))
        rest = replace(order, planned=reference, timeout_s=left_s)
        return own, self._reference(rest, key, on_event, stop)

    def _reference(
        self,
        order: Order,
        key: str,
        on_event: Callable[[Event], None],
        stop: Callable[[], bool],
    ) -> HealthRun | End:
        found: HealthRun | End | None = self._references.get(key)
        found = found or recording.refused(order.planned) or self._cached(key, order)
        if found is None:
            found = self._runner(order, on_event, stop)
            if isinstance(found, HealthRun):
                self._cache.put(key, found.model_dump_json().encode())
        # One case's lack of time says nothing about the next one's.
        if isinstance(found, HealthRun) or found.outcome is not Outcome.TIMEOUT:
            self._references[key] = found
        return found

    def _cached(self, key: str, order: Order) -> HealthRun | None:
        content = self._cache.get(key)
        if content is None:
            return None
        try:
            found = HealthRun.model_validate_json(content)
        except ValidationError:
            return None  # cut short, or of another version: it is run again and written anew
        return found if found.steps == order.planned.case.measure.health_steps else None


def passing(planned: Planned) -> Planned:
    """Return what the health pass of a case runs: the case, on a batch that lies on the device."""
    return _with_knobs(planned, pass_knobs(planned.case.knobs))


def reference_of(planned: Planned) -> tuple[Planned, str]:
    """Return the fp32 reference of a case, and the key under which its figures are kept.

    The key is the fingerprint of the reference's knobs under the default protocol: how the case is
    timed does not matter, and its number of health steps, software and seed do.
    """
    reference = _admitted(_with_knobs(planned, reference_knobs(planned.case.knobs)))
    measure = Measure(health_steps=planned.case.measure.health_steps)
    nominal = reference.case.model_copy(update={"measure": measure})
    return reference, replanned(reference, nominal).keys.fingerprint


def pass_knobs(knobs: Knobs) -> Knobs:
    """Return the knobs of the health pass: no host loader takes part."""
    return _changed(
        knobs,
        data={"source": "device", "pool": 1},
        loader={"batches_per_execution": knobs.loader.batches_per_execution},
    )


def reference_knobs(knobs: Knobs) -> Knobs:
    """Return the same work in plain fp32: nothing that makes it faster, on one process.

    What a sample's update depends on stays: batch size, accumulation, optimizer and seed. So does
    what the numbers of the cores that the user shows stand for.
    """
    return _changed(
        pass_knobs(knobs),
        loader={},
        neuron={"lnc": knobs.neuron.lnc},
        precision="fp32",
        compile="none",
        compile_mode=None,
        optimizer_impl="auto",
        activation_checkpointing=False,
        channels_last=False,
        engine="plain",
        fsdp={},
        accelerate={},
        zero={},
        spmd={},
        processes=1,
        nodes=1,
    )


def _changed(knobs: Knobs, **changes: object) -> Knobs:
    return Knobs.model_validate(knobs.model_dump() | changes)


def _with_knobs(planned: Planned, knobs: Knobs) -> Planned:
    return replanned(planned, planned.case.model_copy(update={"knobs": knobs}))


def _admitted(reference: Planned) -> Planned:
    """Return it without refusals of what the user's environment says otherwise than its knobs do.

    A row is named after its knobs, and its case has been admitted there; none is named after the
    reference, whose own environment overwrites such variables.
    """
    if not reference.refusals:
        return reference
    backend, knobs = registry.get(reference.backend), reference.case.knobs
    chosen = backend.environment(knobs, reference.probe)
    left = [refusal for refusal in reference.refusals if refusal.knob not in chosen]
    return replace(reference, refusals=left)


def _told(end: End) -> str:
    return f"ended as {end.outcome} in phase {end.phase}: {end.reason}"
