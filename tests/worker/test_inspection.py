"""The look inside untimed steps of the 3 ms ViT: what an honest step shows, and each fault."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.audit.checks import audit
from bench.audit.checks.precision import precision_ran
from bench.audit.checks.work import batches_as_asked, gradients_untouched
from bench.backends.base import Device, World
from bench.backends.cpu import CpuBackend, CpuDevice
from bench.measure.alignment import Alignment
from bench.results.record import CheckResult, Inspection
from bench.scenarios.schema import Knobs
from bench.worker import building, inspection, session
from bench.worker.building import Built
from bench.worker.events import Events
from bench.workload.data import Batch
from tests.audit.honest import FAIL, HONEST, NA, PASS
from tests.worker.a_job import a_case, a_job
from tests.workload.test_rounding import Coarse

pytestmark = pytest.mark.torch

FORWARD, BACKWARD = 12, 21

Plant = Callable[[CpuDevice, Built], None]


def nothing(device: CpuDevice, built: Built) -> None:
    """Plant no fault."""


def looked(
    folder: Path, plant: Plant = nothing, device: CpuDevice | None = None, **settings: Any
) -> tuple[Knobs, Inspection]:
    """Build a case, make some steps, plant a fault, and look."""
    case = a_case(settings)
    device = device or CpuDevice(1)
    alignment = Alignment(gradient_accumulation=case.knobs.gradient_accumulation)
    built = building.build(a_job(folder, case), World(), device)
    built.step.advance(2 * alignment.period)
    plant(device, built)
    with contextlib.closing(device):
        found = inspection.run(case.knobs, built, device, alignment, built.step.batches)
    return case.knobs, found


def results(knobs: Knobs, found: Inspection) -> dict[str, CheckResult]:
    """Return what the audit makes of it, check by check."""
    evidence = dataclasses.replace(HONEST, knobs=knobs, inspection=found)
    checks = (precision_ran, batches_as_asked, gradients_untouched)
    return {check.__name__: check(evidence)[0] for check in checks}


HONEST_RUNS: list[tuple[dict[str, Any], str, int]] = [
    ({}, "fp32", FORWARD + BACKWARD),
    ({"precision": "amp-bf16"}, "bf16", FORWARD + BACKWARD),
    ({"precision": "bf16"}, "bf16", FORWARD + BACKWARD),
    ({"gradient_accumulation": 3}, "fp32", 3 * (FORWARD + BACKWARD)),
    ({"data": {"source": "random"}}, "fp32", FORWARD + BACKWARD),
    ({"data": {"source": "device", "pool": 3}}, "fp32", FORWARD + BACKWARD),
    ({"data": {"source": "cached", "workers": 2}}, "fp32", FORWARD + BACKWARD),
    ({"data": {"source": "jpeg", "images": 8}}, "fp32", FORWARD + BACKWARD),
    ({"channels_last": True}, "fp32", FORWARD + BACKWARD),
    ({"optimizer_impl": "fused"}, "fp32", FORWARD + BACKWARD),
]


@pytest.mark.parametrize(("settings", "name", "products"), HONEST_RUNS, ids=str)
def test_an_honest_step_shows_what_was_asked_for(
    tmp_path: Path, settings: dict[str, Any], name: str, products: int
) -> None:
    knobs, found = looked(tmp_path, **settings)
    assert found.matmul_types == {name: products}
    assert found.matmul_source == "dispatched operators"
    assert found.matmul_format == name
    assert found.gradient_kept == 1.0
    assert found.skipped == []
    assert inspection.product_types(found) == [name]
    assert set(results(knobs, found).values()) == {PASS}


def test_the_kernels_that_compute_attention_are_named(tmp_path: Path) -> None:
    """Two blocks, forward and backward."""
    _, found = looked(tmp_path)
    assert sum(found.attention.values()) == 2 * 2
    assert all(name.startswith("scaled_dot_product_") for name in found.attention)


def test_inference_has_no_gradients_to_look_at(tmp_path: Path) -> None:
    knobs, found = looked(tmp_path, task="infer", precision="amp-bf16")
    assert found.matmul_types == {"bf16": FORWARD}
    assert found.gradient_kept is None
    assert found.skipped == ["gradients: inference has none"]
    judged = results(knobs, found)
    assert judged.pop("gradients_untouched") is NA
    assert set(judged.values()) == {PASS}


def test_more_batches_are_drawn_than_the_pool_holds(tmp_path: Path) -> None:
    _, found = looked(tmp_path, data={"source": "cached", "pool": 5})
    assert found.batches_distinct == 5
    assert found.batches_seen is not None
    assert found.batches_seen > 5
    _, large = looked(tmp_path, data={"source": "cached", "pool": 40}, batch_size=1)
    assert large.batches_seen == large.batches_distinct == 16 + 2


class OfAnotherDevice(CpuDevice):
    """Autocasts a device that is not there: a context that does nothing."""

    def autocast(self, knobs: Knobs) -> Any:
        return torch.autocast("cuda", dtype=torch.bfloat16)


class KeepsFloat32(CpuDevice):
    """Leaves the weights as they are, whatever precision is asked for."""

    def place(self, module: torch.nn.Module, knobs: Knobs) -> torch.nn.Module:
        return module


class CastsBehindUs(CpuDevice):
    """Autocasts where nobody asked for it."""

    def autocast(self, knobs: Knobs) -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:User provided device_type")
@pytest.mark.parametrize(
    ("device", "asked", "ran"),
    [
        (OfAnotherDevice, "amp-bf16", "fp32"),
        (KeepsFloat32, "bf16", "fp32"),
        (CastsBehindUs, "fp32", "bf16"),
    ],
)
def test_another_precision_than_was_asked_for_shows_in_types_and_in_a_product(
    tmp_path: Path, device: type[CpuDevice], asked: str, ran: str
) -> None:
    knobs, found = looked(tmp_path, device=device(1), precision=asked)
    assert found.matmul_types == {ran: FORWARD + BACKWARD}
    assert found.matmul_format == ran
    assert results(knobs, found)["precision_ran"] is FAIL


def clips(device: CpuDevice, built: Built) -> None:
    def clipped(optimizer: torch.optim.Optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(built.model.parameters(), 1e-3)
        optimizer.step()

    device.step_optimizer = clipped  # type: ignore[method-assign]


def never_updates(device: CpuDevice, built: Built) -> None:
    device.step_optimizer = lambda _optimizer: None  # type: ignore[method-assign]


def replaced(change: Callable[[Iterator[Batch]], Iterator[Batch]]) -> Plant:
    def plant(device: CpuDevice, built: Built) -> None:
        built.step.batches = change(built.step.batches)

    return plant


def blank(batches: Iterator[Batch]) -> Iterator[Batch]:
    return ((torch.zeros_like(images), labels) for images, labels in batches)


def one_object(batches: Iterator[Batch]) -> Iterator[Batch]:
    return itertools.repeat(next(batches))


def three_of_them(batches: Iterator[Batch]) -> Iterator[Batch]:
    return itertools.cycle([next(batches) for _ in range(3)])


def test_gradients_that_were_clipped_are_found_with_what_is_left(tmp_path: Path) -> None:
    knobs, found = looked(tmp_path, clips)
    assert found.gradient_kept is not None
    assert 0 < found.gradient_kept < 0.5
    assert results(knobs, found) == {
        "precision_ran": PASS,
        "batches_as_asked": PASS,
        "gradients_untouched": FAIL,
    }


def test_without_updates_there_are_no_gradients_to_compare(tmp_path: Path) -> None:
    knobs, found = looked(tmp_path, never_updates)
    assert found.skipped == ["gradients: no update was made"]
    assert results(knobs, found)["gradients_untouched"] is NA


@pytest.mark.parametrize(
    ("change", "source"),
    [
        (blank, "cached"),
        (blank, "random"),
        (one_object, "cached"),
        (one_object, "random"),
        (one_object, "device"),
        (three_of_them, "random"),
    ],
)
def test_batches_that_are_not_what_the_source_promises_are_found(
    tmp_path: Path, change: Callable[[Iterator[Batch]], Iterator[Batch]], source: str
) -> None:
    knobs, found = looked(tmp_path, replaced(change), data={"source": source})
    assert results(knobs, found) == {
        "precision_ran": PASS,
        "batches_as_asked": FAIL,
        "gradients_untouched": PASS,
    }


@pytest.mark.parametrize(
    ("types", "rounds_to", "expected"),
    [
        ({"bf16": 3}, "bf16", ["bf16"]),
        ({"fp32": 3}, "fp32", ["fp32"]),
        ({"fp32": 3}, "tf32", ["tf32"]),
        ({"fp32": 3}, None, []),
        ({"bf16": 3, "fp32": 1}, "bf16", ["bf16", "fp32"]),
        ({"fp8": 3}, "fp32", ["fp8"]),
        ({}, "fp32", []),
        (None, "fp32", []),
    ],
)
def test_the_types_of_the_peak_are_those_of_the_products(
    types: dict[str, int] | None, rounds_to: str | None, expected: list[str]
) -> None:
    found = Inspection(matmul_types=types, matmul_format=rounds_to)
    assert inspection.product_types(found) == expected


@pytest.mark.parametrize(
    ("types", "peaks"),
    [({"bf16": 3}, [121e12]), ({"bf16": 3, "fp8": 9}, [121e12, 242.5e12]), ({"bf16+fp8": 3}, [])],
)
def test_a_launch_is_held_against_the_peak_in_every_type_that_is_known(
    tmp_path: Path, types: dict[str, int], peaks: list[float]
) -> None:
    job = a_job(tmp_path)
    job = job.model_copy(
        update={"probe": job.probe.model_copy(update={"device_model": "NVIDIA L4"})}
    )
    found = session._peaks(job, CpuDevice(1), Inspection(matmul_types=types))
    assert [peak.flops_per_s for peak in found] == peaks


class Quiet(CpuDevice):
    """Shows no product, as a device that replays recorded graphs."""

    def matmul_types(self, run: Callable[[], Any]) -> tuple[dict[str, int], str] | None:
        run()
        return {}, "dispatched operators"


class Closed(CpuDevice):
    """Cannot be looked into."""

    def matmul_types(self, run: Callable[[], Any]) -> tuple[dict[str, int], str] | None:
        return None


def test_what_cannot_be_looked_into_is_skipped_with_a_reason(tmp_path: Path) -> None:
    knobs, found = looked(tmp_path, device=Closed(1))
    assert found.matmul_types is None
    assert found.skipped == ["products: the device does not show them with compile=none"]
    # The product of known matrices is the witness that is left.
    assert results(knobs, found)["precision_ran"] is PASS
    _, found = looked(tmp_path, device=Quiet(1))
    assert found.skipped == ["products: none was seen among dispatched operators"]


def test_compiled_code_that_dispatches_no_product_is_traced_anew(tmp_path: Path) -> None:
    torch._dynamo.reset()

    def compiled(device: CpuDevice, built: Built) -> None:
        module: Any = torch.compile(built.step.module, backend="eager")
        built.step.module = module

    knobs, found = looked(tmp_path, compiled, device=Quiet(1), precision="amp-bf16")
    assert found.matmul_types == {"bf16": FORWARD + BACKWARD}
    assert found.matmul_source == "the traced graph"
    assert set(results(knobs, found).values()) == {PASS}


def test_what_compiled_code_still_dispatches_does_not_speak_for_all_of_it(tmp_path: Path) -> None:
    """A compiler makes kernels of its own of some products and not of others."""
    torch._dynamo.reset()

    class Tuned(CpuDevice):
        def compile(self, module: torch.nn.Module, knobs: Knobs) -> torch.nn.Module:
            compiled: Any = torch.compile(module, backend="eager")
            return compiled

        def matmul_types(self, run: Callable[[], Any]) -> tuple[dict[str, int], str] | None:
            run()
            return {"fp32": 3}, "dispatched operators"

    _, found = looked(tmp_path, device=Tuned(1), compile="inductor")
    assert found.matmul_types == {"fp32": FORWARD + BACKWARD}
    assert found.matmul_source == "the traced graph"


@pytest.mark.parametrize(("bits", "rounds_to"), [(23, "fp32"), (10, "tf32")])
def test_a_compiler_that_drops_bits_is_seen_in_the_product_alone(
    tmp_path: Path, bits: int, rounds_to: str
) -> None:
    torch._dynamo.reset()

    def compiler(graph: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with Coarse(bits):
                return graph(*arguments)

        return run

    class Compiled(CpuDevice):
        def compile(self, module: torch.nn.Module, knobs: Knobs) -> torch.nn.Module:
            compiled: Any = torch.compile(module, backend=compiler)
            return compiled

    knobs, found = looked(tmp_path, device=Compiled(1), compile="inductor")
    assert found.matmul_types == {"fp32": FORWARD + BACKWARD}
    assert found.matmul_format == rounds_to
    expected = PASS if rounds_to == "fp32" else FAIL
    assert results(knobs, found)["precision_ran"] is expected


def launch_of(folder: Path, *, diagnose: bool, index: int = 0, **settings: Any) -> Any:
    job = a_job(folder, a_case(settings), diagnose=diagnose).model_copy(update={"index": index})
    return session.run(job, World(), Events(0), import_s=0.0)


def test_the_launch_that_runs_diagnostics_is_looked_into_after_them(tmp_path: Path) -> None:
    """Its batches are those of the windows' loader, and not of the twin's pool of eight."""
    launch = launch_of(tmp_path, diagnose=True, data={"source": "random"})
    assert launch.diagnostics.device_twin_samples_per_s is not None
    assert launch.inspection.batches_seen == launch.inspection.batches_distinct
    assert launch.inspection.matmul_types == {"fp32": FORWARD + BACKWARD}
    assert launch.flops_per_sample == pytest.approx(11.26e6, rel=1e-3)
    assert launch.peak is None  # a CPU is in no table
    found = {check.name: check.result for check in launch.audit}
    assert found["precision_ran"] is PASS
    assert found["batches_as_asked"] is PASS
    assert found["gradients_untouched"] is PASS
    assert found["flops_below_peak"] is NA


@pytest.mark.slow
@pytest.mark.skipif(not CpuBackend().probe().facts.get("cxx"), reason="no C++ compiler")
def test_a_compiled_launch_shows_the_products_of_its_compiled_code(tmp_path: Path) -> None:
    torch._dynamo.reset()
    launch = launch_of(tmp_path, diagnose=True, compile="inductor", precision="amp-bf16")
    assert launch.inspection.matmul_types == {"bf16": FORWARD + BACKWARD}
    assert launch.inspection.matmul_source == "the traced graph"
    assert launch.inspection.gradient_kept == 1.0
    assert launch.actual["compile"] == "inductor"
    found = {check.name: check.result for check in launch.audit}
    for name in ("as_asked", "precision_ran", "batches_as_asked", "gradients_untouched"):
        assert found[name] is PASS


def test_without_diagnostics_there_is_no_look_and_the_flops_are_counted_once_a_run(
    tmp_path: Path,
) -> None:
    first = launch_of(tmp_path, diagnose=False)
    assert first.inspection is None
    assert first.flops_per_sample == pytest.approx(11.26e6, rel=1e-3)
    found = {check.name: check.result for check in first.audit}
    for name in ("precision_ran", "batches_as_asked", "gradients_untouched", "flops_below_peak"):
        assert found[name] is NA
    assert launch_of(tmp_path, diagnose=False, index=1).flops_per_sample is None


def test_a_device_takes_its_peak_from_the_users_own_table_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "peaks.json"
    part = {
        "device": "Mine",
        "names": ["NVIDIA L4"],
        "dense_flops_per_s": {"bf16": 7e12},
        "source": {"title": "My own count", "date": "2026-01", "url": "https://example.org"},
    }
    table.write_text(json.dumps({"schema": 1, "parts": [part]}), encoding="utf-8")
    monkeypatch.setenv("BENCH_PEAKS", str(table))
    device = CpuDevice(1)
    device.close()
    peak = device.peak("bf16", "NVIDIA L4")
    assert peak is not None
    assert (peak.flops_per_s, peak.device) == (7e12, "Mine")


def test_a_known_device_has_its_peak_in_the_type_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(tmp_path, a_case({"precision": "amp-bf16"}), diagnose=True)
    job = job.model_copy(
        update={"probe": job.probe.model_copy(update={"device_model": "NVIDIA L4"})}
    )
    launch = session.run(job, World(), Events(0), import_s=0.0)
    assert launch is not None
    assert launch.peak is not None
    assert (launch.peak.flops_per_s, launch.peak.dtype) == (121e12, "bf16")
    [check] = [check for check in launch.audit if check.name == "flops_below_peak"]
    assert check.result is PASS
    assert "NVIDIA L4 in bf16" in check.evidence


def test_faster_than_the_device_can_be_is_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that reads a thousandth of the time, on a part whose peak is known."""
    slow = Device.peak(CpuDevice(1), "bf16", "NVIDIA L4")
    assert slow is not None
    slow = slow.model_copy(update={"flops_per_s": 1e6})
    monkeypatch.setattr(CpuDevice, "peak", lambda _self, _dtype, _model: slow)
    launch = launch_of(tmp_path, diagnose=True)
    failed = {check.name for check in launch.audit if check.result is FAIL}
    assert "flops_below_peak" in failed


def test_a_model_whose_flops_cannot_be_counted_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        session.flops, "count", lambda _knobs, _size: session.Flops(reason="it reads values")
    )
    launch = launch_of(tmp_path, diagnose=True, task="infer")
    assert launch.flops_per_sample is None
    assert launch.inspection.skipped[-1] == "FLOPs: it reads values"


class Together:
    """Two ranks that are threads of this process."""

    def __init__(self, rank: int, barrier: threading.Barrier, said: dict[int, float]) -> None:
        self._rank, self._barrier, self._said = rank, barrier, said

    def any(self, flag: bool) -> bool:
        return self.most(1.0 if flag else 0.0) > 0

    def most(self, value: float) -> float:
        self._said[self._rank] = value
        self._barrier.wait(60.0)
        found = max(self._said.values())
        self._barrier.wait(60.0)
        return found

    def barrier(self) -> None:
        self.most(0.0)


NOTHING_TOLD = "exchange: an update was skipped, or had no gradient that is finite"


@pytest.mark.parametrize(
    ("norms", "heard"),
    [
        # Of each rank: while the first rank speaks, then while the last one does.
        (([2.0, 0.5], [0.25, 2.0]), 0.25),
        (([2.0, 0.5], [0.0, 2.0]), 0.0),
        (([2.0, 0.0], [0.25, 2.0]), 0.0),
        (([None, 0.0], [0.25, 2.0]), 0.0),
        (([2.0, 0.5], [None, 2.0]), None),
        (([None, None], [None, None]), None),
        # The last rank holds nothing: neither is it deaf, nor does it speak.
        (([2.0, 0.5], [math.inf, math.inf]), 0.5),
        # Nobody had a gradient, the speaker included.
        (([0.0, 0.5], [0.0, 2.0]), None),
    ],
)
def test_one_deaf_rank_is_enough_and_one_that_cannot_tell_leaves_it_unknown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    norms: tuple[list[float | None], ...],
    heard: float | None,
) -> None:
    case = a_case()
    built = building.build(a_job(tmp_path, case), World(), CpuDevice(1))
    scripts = {threading.get_ident(): iter(norms[0])}
    monkeypatch.setattr(
        "bench.workload.inspection.given_norm", lambda *_: next(scripts[threading.get_ident()])
    )
    barrier, said = threading.Barrier(2), dict[int, float]()

    def look(rank: int) -> Inspection:
        peers = Together(rank, barrier, said)
        world = World(rank=rank, size=2, local_rank=rank)
        return inspection.exchange(case.knobs, built, CpuDevice(1), Alignment(), world, peers)

    def second() -> Inspection:
        scripts[threading.get_ident()] = iter(norms[1])
        return look(1)

    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(second)
        found = (look(0), waiting.result())
    assert [each.gradient_heard for each in found] == [heard, heard]
    assert [NOTHING_TOLD in each.skipped for each in found] == [heard is None] * 2


def test_the_checks_are_part_of_every_audit() -> None:
    names = [check.name for check in audit(HONEST)]
    for name in ("precision_ran", "flops_below_peak", "batches_as_asked", "gradients_untouched"):
        assert names.count(name) == 1
