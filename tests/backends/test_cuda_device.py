"""The working half of CUDA over a fake torch.cuda: what it issues, sets and reads back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from bench.backends import nvml
from bench.backends.cuda_device import CudaDevice
from bench.scenarios.schema import Knobs
from bench.worker import actual
from bench.workload.engines import PlainEngine
from tests.backends.fake_cuda import FakeCuda, FakeTensor
from tests.backends.fake_nvml import UUID, FakeNvml
from tests.workload.build import Flat, Recorder, batch, infer_step, knobs, train_step

pytestmark = pytest.mark.torch

HOST = torch.device("cpu")
Open = Callable[..., CudaDevice]


@pytest.fixture
def flags() -> Iterator[None]:
    """Give torch's own flags back as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before, threads = (matmul.allow_tf32, cudnn.allow_tf32), torch.get_num_threads()
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before
    torch.set_num_threads(threads)


@pytest.fixture
def opened(flags: None) -> Iterator[Open]:
    devices: list[CudaDevice] = []

    def opening(
        case: Knobs | None = None, cuda: FakeCuda | None = None, library: FakeNvml | None = None
    ) -> CudaDevice:
        gpu = nvml.find(UUID, lambda: library or FakeNvml())
        device = CudaDevice(case or knobs(), HOST, cuda=cuda or FakeCuda(), telemetry=gpu)
        devices.append(device)
        return device

    yield opening
    for device in devices:
        device.close()


def test_it_makes_its_own_gpu_the_current_one_and_the_fence_waits_for_it(opened: Open) -> None:
    cuda = FakeCuda()
    opened(cuda=cuda).fence()
    assert cuda.log == ["set cpu", "synchronize cpu"]


@pytest.mark.parametrize(
    ("precision", "allowed"),
    [("fp32", False), ("tf32", True), ("amp-bf16", False), ("amp-fp16", False), ("bf16", False)],
)
def test_only_tf32_lets_products_or_convolutions_round(
    opened: Open, precision: str, allowed: bool
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not allowed
    device = opened(knobs(precision=precision))
    assert torch.backends.cuda.matmul.allow_tf32 is allowed
    assert torch.backends.cudnn.allow_tf32 is allowed
    assert device.float32_format() == ("tf32" if allowed else "fp32")


def ran(device: CudaDevice, case: Knobs) -> Any:
    """Return the precision that the audit would read back."""
    module = Recorder()
    step = train_step(module, [batch()], knobs())
    step.advance(1)
    return actual.actual(
        case, device=device, engine=PlainEngine(), model=module, step=step, proven={}
    )["precision"]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "amp-bf16", "amp-fp16"])
def test_the_precision_that_runs_is_read_back(opened: Open, precision: str) -> None:
    case = knobs(precision=precision)
    assert ran(opened(case), case) == precision


def test_a_flag_that_somebody_switched_is_not_taken_for_what_was_asked(opened: Open) -> None:
    case = knobs()
    device = opened(case)
    torch.backends.cudnn.allow_tf32 = True
    assert device.float32_format() is None
    assert ran(device, case) is None
    torch.backends.cuda.matmul.allow_tf32 = True
    assert ran(device, case) == "tf32"


def test_marks_are_events_on_the_stream_that_computes_and_are_read_after_a_fence(
    opened: Open,
) -> None:
    cuda = FakeCuda()
    device = opened(cuda=cuda)
    earlier = device.mark()
    cuda.gpu_ms += 6.0
    later = device.mark()
    assert cuda.log[-2:] == ["timed event on default"] * 2
    with pytest.raises(RuntimeError, match="completed"):
        device.between_s(earlier, later)
    device.fence()
    assert device.between_s(earlier, later) == 0.007


def test_host_batches_are_copied_ahead_and_resident_ones_handed_out(opened: Open) -> None:
    cuda = FakeCuda()
    device = opened(cuda=cuda)
    host = itertools.repeat([FakeTensor("images", cuda), FakeTensor("labels", cuda)])
    next(device.feed(host, knobs()))
    assert cuda.log.count("copy images on side") == 2
    pool = [batch()]
    assert next(device.feed(pool, knobs(data={"source": "device"}))) is pool[0]


class TestMemory:
    STATISTICS = {
        "allocated_bytes.all.current": 60,
        "allocated_bytes.all.peak": 70,
        "reserved_bytes.all.current": 100,
        "reserved_bytes.all.peak": 120,
        "inactive_split_bytes.all.current": 25,
        "num_alloc_retries": 2,
    }

    def test_what_tensors_take_up_is_the_memory(self, opened: Open) -> None:
        cuda = FakeCuda()
        cuda.statistics = self.STATISTICS
        device = opened(cuda=cuda)
        assert (device.memory_bytes(), device.peak_memory_bytes()) == (60, 70)
        described = device.describe()
        assert described["reserved_peak_bytes"] == 120
        assert described["fragmented_share"] == 0.25
        assert described["peak_memory_counts"] == "allocated"

    @pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
    def test_where_graphs_replay_their_own_memory_counts(self, opened: Open, mode: str) -> None:
        cuda = FakeCuda()
        cuda.statistics = self.STATISTICS
        device = opened(knobs(compile="inductor", compile_mode=mode), cuda)
        assert device.peak_memory_bytes() == 120
        assert device.describe()["peak_memory_counts"] == "reserved"

    def test_retries_count_from_the_reset(self, opened: Open) -> None:
        cuda = FakeCuda()
        cuda.statistics = dict(self.STATISTICS)
        device = opened(cuda=cuda)
        device.reset_peak_memory()
        assert "reset peaks" in cuda.log
        cuda.statistics["num_alloc_retries"] = 5
        assert device.describe()["allocator_retries"] == 3

    def test_an_allocator_that_counts_nothing_gives_null(self, opened: Open) -> None:
        device = opened()
        device.reset_peak_memory()
        assert device.memory_bytes() is None
        assert device.peak_memory_bytes() is None
        described = device.describe()
        assert described["allocator_retries"] is None
        assert described["fragmented_share"] is None


def test_an_output_that_a_replay_would_write_over_is_copied(opened: Open) -> None:
    output = torch.ones(3)
    assert opened().keep(output) is output
    kept = opened(knobs(compile="inductor", compile_mode="reduce-overhead")).keep(output)
    output.zero_()
    assert kept.tolist() == [1.0, 1.0, 1.0]


def test_energy_clock_and_co_tenants_come_from_the_driver(opened: Open) -> None:
    device = opened(library=FakeNvml(pids=[1, 2], bits=0x40))
    assert device.energy().joules == 5000.0
    rates = device.clocks()
    assert rates is not None
    assert rates.mhz == 1980
    assert sum(rates.throttled.values()) == 1
    assert "one other process" in device.disturbances()[0]
    assert device.describe()["driver"] == "580.65.06"


def test_threads_are_those_of_the_rank(opened: Open) -> None:
    assert opened(knobs(threads=1)).describe()["threads"] == 1


def test_what_attention_may_use_is_told(opened: Open) -> None:
    assert "math" in str(opened().describe()["attention_allowed"])


def test_a_graph_break_is_counted_with_its_reason_and_without_the_programs_text(
    opened: Open,
) -> None:
    device = opened()
    torch._dynamo.utils.counters["graph_break"]["No such thing\n  in /home/someone/net.py"] += 2
    counted = device.counters()
    assert counted.graph_breaks == {"No such thing": 2}
    assert device.describe()["graph_breaks"] == 2
    torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] += 1
    assert device.counters().graphs_skipped == 1


def test_closing_releases_the_driver(flags: None) -> None:
    library = FakeNvml()
    gpu = nvml.find(UUID, lambda: library)
    CudaDevice(knobs(), HOST, cuda=FakeCuda(), telemetry=gpu).close()
    assert library.open == 0


def test_inference_reads_what_was_kept() -> None:
    step = infer_step(Flat(), [batch()], knobs(task="infer"))
    step.advance(2)
    assert step.residual() >= 0.0
