"""The look inside some untimed steps: what was multiplied, in which types, over which data.

It comes after everything that is timed, so nothing it does can disturb a figure, and the weights it
leaves behind are of no use to anyone. All ranks draw and step alike. It only looks; the audit
judges.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from bench.backends import products
from bench.backends.base import Device, World
from bench.measure.alignment import Alignment
from bench.measure.target import ALONE, Peers
from bench.results.record import Inspection
from bench.scenarios.schema import DEFAULT_POOL, Knobs
from bench.worker.building import Built
from bench.workload import inspection, rounding
from bench.workload.data import Batch
from bench.workload.inspection import WatchedBatches, WatchedGradients
from bench.workload.step import TrainStep, floating_type

_LEAST_BATCHES, _MOST_BATCHES = 4, 16
_BEYOND_A_POOL = 2 * DEFAULT_POOL + 1
_TRACED = "the traced graph"
_ALONE = World()
_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


def run(
    knobs: Knobs,
    built: Built,
    device: Device,
    alignment: Alignment,
    feed: Iterator[Batch],
    world: World = _ALONE,
    peers: Peers = ALONE,
) -> Inspection:
    """Draw some batches, make some periods of steps, and multiply known matrices.

    Args:
        knobs: Of the case.
        built: Its workload.
        device: Where it runs.
        alignment: The rhythm of the case.
        feed: The batches of the windows, at a window edge.
        world: This process's place.
        peers: The other ranks.
    """
    look = _Look(knobs, built, device, alignment)
    built.step.batches = watched = WatchedBatches(feed)
    built.step.fence()
    # Whole periods, or the next graph would hold other steps than those that were measured.
    for _ in range(-(-_wanted(knobs) // alignment.period) * alignment.period):
        next(watched)
    types, source = look.products()
    # First, since large gradients may leave weights that give none.
    heard = look.exchange(world, peers)
    kept = look.gradients()
    rounded = look.rounding()
    built.step.batches = feed
    return Inspection(
        matmul_types=types,
        attention=dict(look.attention),
        matmul_source=source,
        matmul_finite=math.isfinite(rounded.error),
        matmul_error=rounded.error if math.isfinite(rounded.error) else None,
        matmul_format=rounded.format,
        batches_seen=watched.seen,
        batches_distinct=watched.distinct,
        input_deviation=watched.deviation,
        gradient_kept=kept,
        gradient_heard=heard,
        skipped=look.skipped,
    )


def exchange(
    knobs: Knobs,
    built: Built,
    device: Device,
    alignment: Alignment,
    world: World,
    peers: Peers,
) -> Inspection:
    """Look only at whether every rank hears of the others; the arguments are those of `run`."""
    look = _Look(knobs, built, device, alignment)
    heard = look.exchange(world, peers)
    unseen = [f"{part}: measure.diagnostics=false" for part in ("products", "gradients")]
    return Inspection(gradient_heard=heard, skipped=[*unseen, *look.skipped])


def product_types(found: Inspection) -> list[str]:
    """Return the types in which products ran; empty: they are not known.

    Where the graph says fp32 throughout, the hardware may round further: then what came back from a
    product decides.
    """
    types = sorted(found.matmul_types or {})
    if types == ["fp32"]:
        return [found.matmul_format] if found.matmul_format is not None else []
    return types


def _wanted(knobs: Knobs) -> int:
    """Return how many batches to draw: more than a pool holds, and more than there are workers.

    Every worker of a loader has a pool of its own and begins with the same batch. Where there is no
    pool, a usual one that is sold as loading must have begun anew.
    """
    pool = knobs.data.pool
    repeating = _BEYOND_A_POOL if pool is None else min(_MOST_BATCHES, pool + 1)
    return max(_LEAST_BATCHES, repeating, knobs.data.workers + 1)


@dataclass
class _Look:
    knobs: Knobs
    built: Built
    device: Device
    alignment: Alignment
    skipped: list[str] = field(default_factory=list)
    """What could not be looked at, and why."""
    attention: Counter[str] = field(default_factory=Counter)
    """Kernels of fused attention that `products` met."""

    def products(self) -> tuple[dict[str, int] | None, str | None]:
        """Return the products of a period by type, and where they were counted."""
        if self._computes_later():
            # Nobody may stand between the program and the graph that is made of it.
            found = self.device.matmul_types(self._period)
        else:
            with products.DispatchedAttention() as attention:
                found = self.device.matmul_types(self._period)
            self.attention = attention.counted
        self.built.step.fence()
        if found is None:
            self.skipped.append(
                f"products: the device does not show them with compile={self.knobs.compile}"
            )
            return None, None
        types, source = found
        if isinstance(self.built.step.module, torch._dynamo.OptimizedModule):
            # Replayed CUDA graphs and kernels of the compiler's own dispatch no product, and what
            # else is dispatched speaks for itself only.
            traced = self._traced()
            types, source = (traced, _TRACED) if traced else found
        if not types:
            self.skipped.append(f"products: none was seen among {source}")
            return None, None
        return types, source

    def gradients(self) -> float | None:
        """Return norm given to the optimizer / norm left by backward, over a period."""
        step = self.built.step
        if not isinstance(step, TrainStep):
            self.skipped.append("gradients: inference has none")
            return None
        if not step.engine.shows_gradients:
            self.skipped.append(
                f"gradients: engine={self.knobs.engine} shows them to nobody but the optimizer"
            )
            return None
        if self._untouched_while_pending(step):
            return 1.0
        looks = {"left": inspection.enlarged, "given": inspection.norm}
        with WatchedGradients(step, **looks) as watched:
            self._make_a_period()
        kept = inspection.norm_kept(watched.updates)
        if kept is None:
            called = "their norm is zero or not finite" if watched.updates else "no update was made"
            self.skipped.append(f"gradients: {called}")
        return kept

    def exchange(self, world: World, peers: Peers) -> float | None:
        """Return the least that any rank hears of another one that alone has a loss: norm.

        The first rank speaks, then the last; all others must be given its gradients.
        """
        step = self.built.step
        if world.size == 1 or not isinstance(step, TrainStep):
            return None
        if self._computes_later():
            self.skipped.append("exchange: on this device it would be another graph to compile")
            return None
        heard, untold = math.inf, False
        for speaker in (0, world.size - 1):
            criterion = inspection.OneSpeaks(step.criterion, world.rank == speaker)
            norm = inspection.given_norm(step, criterion, self._make_a_period)
            held = None if norm is None or math.isinf(norm) else norm
            least = -peers.most(-math.inf if held is None else -held)
            most = peers.most(held or 0.0)
            if least == 0 < most:
                return 0.0  # whatever other ranks could not tell
            heard = min(heard, least)
            # Where the speaker's own gradient is 0, there was nothing to hear.
            untold = peers.any(norm is None) or most == 0 or untold
        if untold:
            self.skipped.append(
                "exchange: an update was skipped, or had no gradient that is finite"
            )
            return None
        return heard

    def rounding(self) -> rounding.Rounding:
        """Return what became of a product of known float32 matrices."""
        model = self.built.model
        found = rounding.of_products(
            self.device.torch_device,
            lambda: self.device.autocast(self.knobs),
            floating_type(model),
            lambda module: self.device.compile(module, self.knobs),
            convolution=any(isinstance(module, _CONVOLUTIONS) for module in model.modules()),
        )
        if found.format is None:
            self.skipped.append(f"format: none that is known keeps {found.bits} bits")
        return found

    def _untouched_while_pending(self, step: TrainStep) -> bool:
        """Return whether the optimizer gets what backward left, on a device that computes later.

        Norms would be results more, and another graph to compile. False: it computes at once, or
        the gradients were changed, and their norms tell by how much.
        """
        if not self._computes_later():
            return False
        looks = {"left": self.device.pending, "given": self.device.pending}
        with WatchedGradients(step, **looks) as watched:
            self._make_a_period()
        updates = watched.updates
        return bool(updates) and all(left == given for left, given in updates)

    def _computes_later(self) -> bool:
        return self.device.pending(next(self.built.model.parameters())) is not None

    def _period(self) -> list[torch.Tensor]:
        """Issue a period, and return every tensor that holds something of it."""
        step, model = self.built.step, self.built.model
        step.advance(self.alignment.period)
        parameters = list(model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        output = step.output()
        return [*parameters, *gradients, *([] if output is None else [output])]

    def _make_a_period(self) -> None:
        self.built.step.advance(self.alignment.period)
        self.built.step.fence()

    def _traced(self) -> dict[str, int]:
        """Trace the module anew for a compiler that only counts."""
        step = self.built.step
        counts: Counter[str] = Counter()
        compiled: Any = step.module
        backend = products.counting_backend(counts)
        step.module = cast("torch.nn.Module", torch.compile(compiled._orig_mod, backend=backend))
        self._make_a_period()
        step.module = compiled
        return dict(counts)
