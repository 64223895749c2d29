"""The working half of PyTorch/XLA: the fence that waits, the cut, the counters.

Imported inside workers only, under the environment that the planning half chose: importing
torch_xla fixes the device, the type of a float32 and the thread pool for the life of the process.
It knows nothing of steps, windows or clocks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.debug.metrics as met
import torch_xla.runtime as xr
from pydantic import JsonValue

from bench.backends import hlo, host, xla_checkpointing
from bench.backends.base import ClockRates, Counters, Device, EnergyCount, Unsupported
from bench.backends.host_clocks import HostClocks
from bench.backends.rapl import Rapl
from bench.backends.xla_feed import HostFeed, ResidentFeed
from bench.scenarios.schema import Knobs

_SETTINGS = ("NPROC", "XLA_USE_BF16", "XLA_DOWNCAST_BF16", "PJRT_CPU_ASYNC_CLIENT")
_READ_BY_ITEM = "aten::_local_scalar_dense"
"""What `.item()` counts as: a transfer that was asked for, not an operator that fell back."""
_ROUNDED_BY_BF16 = 1.0 + 2.0**-10


class XlaDevice(Device):
    """The first XLA device of the process."""

    def __init__(self, knobs: Knobs) -> None:
        self.torch_device = torch_xla.device()
        self._graph_per_cut = knobs.compile != "openxla"
        self._feeds: list[HostFeed | ResidentFeed] = []
        self._kept: list[torch.Tensor] = []
        self._token = self.sent(1.0)
        self._start = _read_counters()
        self._peak_before: int | None = None
        self._host_peak_is_reset = False
        self._on_cpu = xr.device_type() == "CPU"
        self.own_memory = not self._on_cpu
        self._rapl = Rapl() if self._on_cpu else None
        # The loader's threads fill its queue when a window has ended.
        self._clocks = HostClocks(paced=False) if self._on_cpu else None

    def fence(self) -> None:
        """Cut the graph, then wait for every execution and for what it replaced to be freed.

        `torch_xla.sync(wait=True)` returns once the work is dispatched; only `wait_device_ops`
        waits for it to be done. The runtime then still frees the old parameters, behind a lock that
        the next graph, or the read of any tensor, waits for: 20 ms for 130 MB on the host.
        """
        torch_xla.sync()
        xm.wait_device_ops()
        self._kept.clear()
        self._token.cpu()

    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        """Send host batches through the device loader; cut before batch N, 2N, ... is handed out.

        N is `loader.batches_per_execution`: the first graph holds N - 1 micro-batches.
        """
        feed: HostFeed | ResidentFeed
        if knobs.data.source == "device":
            feed = ResidentFeed(batches, knobs.loader, self._kept.clear)
        else:
            feed = HostFeed(
                batches, self.torch_device, knobs.loader, self._kept.clear, self.input_sharding()
            )
        self._feeds.append(feed)
        return feed

    def sent(self, number: float) -> torch.Tensor:
        """Return a number that was sent to the device, as a tensor of one."""
        return torch.tensor([number]).to(self.torch_device)

    def input_sharding(self) -> Any:
        """Return how the device loader divides a batch over devices; null: there is one."""
        return None

    def keep(self, output: torch.Tensor) -> torch.Tensor:
        """Hold a result until the next cut: what nobody holds by then is not in the graph."""
        self._kept.append(output)
        return output

    @contextlib.contextmanager
    def checkpointing(self) -> Iterator[None]:
        """Give models torch_xla's checkpointing: torch's own fails on XLA tensors."""
        with xla_checkpointing.patched():
            yield

    def counters(self) -> Counters:
        """Read torch_xla's counters; exact after a fence.

        With compile=openxla the number of executions is dynamo's own affair (several a step, and
        their count may lag), so there is none to compare: null.
        """
        now, start = _read_counters(), self._start
        fallen_before = start.fallbacks or {}
        return Counters(
            compiles=now.compiles - start.compiles,
            compile_s=(now.compile_s or 0.0) - (start.compile_s or 0.0),
            executions=(
                (now.executions or 0) - (start.executions or 0) if self._graph_per_cut else None
            ),
            fallbacks={
                name: count - fallen_before.get(name, 0)
                for name, count in (now.fallbacks or {}).items()
                if count > fallen_before.get(name, 0)
            },
        )

    def seed(self, seed: int) -> None:
        """Seed torch's generator on the host and the device's own."""
        torch.manual_seed(seed)
        torch_xla.manual_seed(seed)

    def reset_peak_memory(self) -> None:
        """Begin the process's peak anew where the host is the device; else note the runtime's."""
        self._host_peak_is_reset = self._on_cpu and host.reset_peak_rss()
        self._peak_before = _memory_bytes(self.torch_device, "peak_bytes_used")

    def peak_memory_bytes(self) -> int | None:
        """Return the runtime's peak if it rose after the reset; null: it did not, or there is none.

        The runtime's peak is that since its start. One that did not rise is a bound, and no figure.
        Where the host's processors are the device, it is the process's peak resident memory.
        """
        if self._on_cpu:
            return host.peak_rss_bytes() if self._host_peak_is_reset else None
        before = self._peak_before
        peak = _memory_bytes(self.torch_device, "peak_bytes_used")
        return peak if peak is not None and before is not None and peak > before else None

    def memory_bytes(self) -> int | None:
        """Return what the runtime says is in use; on the host's processors, what we hold."""
        if self._on_cpu:
            return host.anonymous_bytes()
        return _memory_bytes(self.torch_device, "bytes_used")

    def energy(self) -> EnergyCount:
        """Read RAPL's package counters on the host's processors."""
        if self._rapl is None:
            return EnergyCount(reason="torch_xla reads no energy counter of this device")
        return self._rapl.read()

    def clocks(self) -> ClockRates | None:
        """Read the clocks of the host's processors, where they are the device."""
        return None if self._clocks is None else self._clocks.read()

    def prove(self, knobs: Knobs) -> dict[str, JsonValue]:
        """Send 1 + 2**-10 to the device and back: it comes back as 1 where float32 is bfloat16.

        Raises:
            Unsupported: float32 is not stored as the precision asks.
        """
        returned = float(self.sent(_ROUNDED_BY_BF16).cpu()[0])
        as_bf16 = returned != _ROUNDED_BY_BF16
        if as_bf16 != (knobs.precision == "bf16-env"):
            found = "bfloat16" if as_bf16 else "float32"
            raise Unsupported(
                "precision",
                knobs.precision,
                f"the device stores a float32 as {found} (1 + 2**-10 comes back as {returned}); "
                f"XLA_USE_BF16 is {os.environ.get('XLA_USE_BF16', 'not set')}",
            )
        if as_bf16:
            return {"float32_stored_as": "bfloat16", "precision": "bf16-env"}
        return {"float32_stored_as": "float32"}

    def matmul_types(
        self, run: Callable[[], Sequence[torch.Tensor]]
    ) -> tuple[dict[str, int], str] | None:
        """Count the products in the graph that the next cut would hand to the compiler.

        With compile=openxla graphs are compiled inside dynamo's bridge, which shows them to nobody.
        """
        if not self._graph_per_cut:
            return None
        left = [*run(), *self._kept]
        found = hlo.products(torch_xla._XLAC._get_xla_tensors_hlo(left))
        return found, "the compiler's input (HLO)"

    def pending(self, tensor: torch.Tensor) -> str | None:
        """Return the tensor's identity, its last operation, and how often it was written to."""
        # The operation alone may be the same before and after an update in place.
        return f"{torch_xla._XLAC._get_xla_tensor_debug_info(tensor)} {tensor._version}"

    def describe(self) -> dict[str, JsonValue]:
        """Return what the runtime says of itself, and the settings it was started with."""
        return {
            "device": str(self.torch_device),
            "pjrt": str(xr.device_type()),
            # The one device that stands for all those of SPMD has none.
            "kind": None if xr.is_spmd() else str(xm.xla_device_kind(self.torch_device)),
            "torch_xla": str(torch_xla.__version__),
            # The pool cannot be asked for its size; NPROC is all that it is made from.
            "threads": _thread_pool_size(),
            **{name: os.environ.get(name) for name in _SETTINGS},
        }

    def close(self) -> None:
        """Stop the loader threads.

        The runtime has threads of its own that can hang at interpreter exit: the worker leaves by
        `os._exit` once its result is written.
        """
        for feed in self._feeds:
            feed.close()
        self._feeds.clear()
        self._kept.clear()


def _thread_pool_size() -> int | None:
    """Return the size of the host's thread pool; null: the work runs elsewhere, or nothing set."""
    size = os.environ.get("NPROC")
    return int(size) if size is not None and xr.device_type() == "CPU" else None


def _memory_bytes(device: torch.device, name: str) -> int | None:
    if xr.is_spmd():
        return None  # torch_xla has no count for the one device that stands for all of them
    try:
        return int(xm.get_memory_info(device)[name])
    except RuntimeError as error:
        if "UNIMPLEMENTED" not in str(error):
            raise
        return None


def _read_counters() -> Counters:
    compile_time = met.metric_data("CompileTime")
    executions = [met.metric_data(name) for name in ("ExecuteTime", "ExecuteReplicatedTime")]
    return Counters(
        compiles=met.counter_value("UncachedCompile") or 0,
        compile_s=compile_time[1] / 1e9 if compile_time else 0.0,
        executions=sum(found[0] for found in executions if found),
        fallbacks={
            name: int(met.counter_value(name))
            for name in met.counter_names()
            if name.startswith("aten::") and name != _READ_BY_ITEM
        },
    )
