"""The working half of CUDA: the fence, the copies ahead, the flags of float32, the allocator.

Imported inside workers only. Every call of `torch.cuda` goes through one object, which tests
replace. It knows nothing of steps, windows or clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from pydantic import JsonValue

from bench.backends import host, nvml
from bench.backends.base import ClockRates, Counters, Device, EnergyCount
from bench.backends.cuda import CUDA_GRAPHS
from bench.backends.cuda_feed import copied_ahead
from bench.backends.cuda_probe import AMD_UNTOLD
from bench.backends.dynamo import DynamoCounter
from bench.backends.nvml import Telemetry, Unseen
from bench.scenarios.schema import Knobs


class CudaDevice(Device):
    """One GPU.

    Args:
        knobs: Of the case.
        device: Which GPU.
        cuda: `torch.cuda`.
        telemetry: The GPU as its driver sees it; null: it is looked for.
    """

    process_group: ClassVar[str | None] = "nccl"
    """NCCL; on AMD's GPUs RCCL answers to the name."""
    own_memory: bool | None = True

    def __init__(
        self,
        knobs: Knobs,
        device: torch.device,
        *,
        cuda: Any = torch.cuda,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.torch_device = device
        self._cuda = cuda
        cuda.set_device(device)
        torch.set_num_threads(host.threads_per_rank(knobs))
        _round_to_tf32(knobs.precision == "tf32")
        self._replays = knobs.compile_mode in CUDA_GRAPHS
        self._dynamo = DynamoCounter()
        self._gpu = _telemetry(cuda, device) if telemetry is None else telemetry
        self._retries_before: int | None = None

    def fence(self) -> None:
        """Wait for all streams of the GPU, that of the copies ahead included."""
        self._cuda.synchronize(self.torch_device)

    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        """Copy host batches, one ahead, on a stream of their own."""
        if knobs.data.source == "device":
            return iter(batches)
        return copied_ahead(batches, self.torch_device, self._cuda)

    def keep(self, output: torch.Tensor) -> torch.Tensor:
        """Return a copy where a CUDA graph made it: the next replay writes over the original."""
        return output.clone() if self._replays else output

    def counters(self) -> Counters:
        """Count compilations by dynamo; what torch cannot compute here is an error, no fallback."""
        return self._dynamo.counters()

    def float32_format(self) -> str | None:
        """Read both flags back: torch's default lets convolutions round and products not."""
        flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        return {(False, False): "fp32", (True, True): "tf32"}.get(flags)

    def reset_peak_memory(self) -> None:
        """Begin the allocator's peaks, and the count of its retries, anew."""
        self._cuda.reset_peak_memory_stats(self.torch_device)
        self._retries_before = self._memory("num_alloc_retries")

    def peak_memory_bytes(self) -> int | None:
        """Return the most that tensors took up at once.

        Where CUDA graphs replay, the most that the allocator held: a graph keeps the memory of its
        intermediate results, and the allocator does not count them as tensors.
        """
        return self._memory(f"{self._counted}_bytes.all.peak")

    def memory_bytes(self) -> int | None:
        """Return what tensors take up now."""
        return self._memory("allocated_bytes.all.current")

    def disturbances(self) -> list[str]:
        """Return who else computes on this GPU."""
        return self._gpu.co_tenants()

    def energy(self) -> EnergyCount:
        """Read the driver's counter of this GPU."""
        return self._gpu.energy()

    def mark(self) -> Any:
        """Record an event on the stream that computes."""
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self.torch_device))
        return event

    def between_s(self, earlier: Any, later: Any) -> float:
        """Return what the GPU's clock read between two events. It ticks in half microseconds."""
        return float(earlier.elapsed_time(later)) / 1e3

    def clocks(self) -> ClockRates | None:
        """Read the clock of the multiprocessors, and what has held it back."""
        return self._gpu.clocks()

    def describe(self) -> dict[str, JsonValue]:
        """Read back what torch and the driver would otherwise decide unseen."""
        cuda_flags: Any = torch.backends.cuda
        reserved = self._memory("reserved_bytes.all.current")
        split = self._memory("inactive_split_bytes.all.current")
        counted = self._dynamo.counters()
        return {
            "device": str(self.torch_device),
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "threads": torch.get_num_threads(),
            "matmul_allow_tf32": cuda_flags.matmul.allow_tf32,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "fp16_reduced_sums": cuda_flags.matmul.allow_fp16_reduced_precision_reduction,
            "bf16_reduced_sums": cuda_flags.matmul.allow_bf16_reduced_precision_reduction,
            "attention_allowed": ", ".join(
                name
                for name, allowed in (
                    ("flash", cuda_flags.flash_sdp_enabled()),
                    ("efficient", cuda_flags.mem_efficient_sdp_enabled()),
                    ("cudnn", cuda_flags.cudnn_sdp_enabled()),
                    ("math", cuda_flags.math_sdp_enabled()),
                )
                if allowed
            ),
            "peak_memory_counts": self._counted,
            "reserved_peak_bytes": self._memory("reserved_bytes.all.peak"),
            "fragmented_share": split / reserved if reserved and split is not None else None,
            "allocator_retries": self._retries(),
            "graph_breaks": sum((counted.graph_breaks or {}).values()),
            "cuda_graphs_skipped": counted.graphs_skipped if self._replays else None,
            **self._gpu.facts(),
        }

    def close(self) -> None:
        """Stop counting compilations, and release NVML."""
        self._dynamo.close()
        self._gpu.close()

    @property
    def _counted(self) -> str:
        return "reserved" if self._replays else "allocated"

    def _retries(self) -> int | None:
        """Return how often the allocator gave its reserve back to the GPU and asked anew."""
        now, before = self._memory("num_alloc_retries"), self._retries_before
        return None if now is None or before is None else now - before

    def _memory(self, name: str) -> int | None:
        """Return one of the allocator's statistics; null: this allocator keeps no such one."""
        value = self._cuda.memory_stats(self.torch_device).get(name)
        return None if value is None else int(value)


def _round_to_tf32(wanted: bool) -> None:
    """Set both flags: products of matrices, and convolutions, which torch lets round by default.

    By the old names: their getters fail once the new ones were used.
    """
    torch.backends.cuda.matmul.allow_tf32 = wanted
    torch.backends.cudnn.allow_tf32 = wanted


def _telemetry(cuda: Any, device: torch.device) -> Telemetry:
    if torch.version.hip:
        return Unseen(AMD_UNTOLD)
    return nvml.find(str(cuda.get_device_properties(device).uuid))
