"""What is measured inside a child of `xla_child`: one function per group, figures out."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.debug.metrics as met
from torch.utils.data import DataLoader, Dataset
from torch_xla.distributed.parallel_loader import ParallelLoader

from bench.backends import xla_feed
from bench.backends.base import Unsupported
from bench.backends.xla_device import XlaDevice
from bench.scenarios.schema import Knobs

Figures = dict[str, Any]


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def knobs(**values: Any) -> Knobs:
    return Knobs.model_validate(values)


def executions(device: XlaDevice) -> int:
    count = device.counters().executions
    assert count is not None
    return count


def fence(device: XlaDevice, case: Knobs) -> Figures:
    """Time both ways of waiting, and the read that comes after each."""
    matrix = torch.randn(1200, 1200).to(device.torch_device)

    def work() -> torch.Tensor:
        product = matrix
        for _ in range(12):
            product = product @ matrix / 40
        return product.sum()

    def measure(wait: Callable[[], Any]) -> tuple[float, float]:
        witness = work()
        waited = timed(wait)
        return waited, timed(witness.cpu)

    for _ in range(3):
        measure(device.fence)
    fenced = [measure(device.fence) for _ in range(5)]
    synced = [measure(lambda: torch_xla.sync(wait=True)) for _ in range(5)]
    return {
        "fence_s": statistics.median(waited for waited, _ in fenced),
        "after_fence_s": statistics.median(read for _, read in fenced),
        "sync_s": statistics.median(waited for waited, _ in synced),
        "after_sync_s": statistics.median(read for _, read in synced),
    }


def counters(device: XlaDevice, case: Knobs) -> Figures:
    """Count compilations, executions and fallbacks of known work."""
    found: Figures = {"at_start": vars(device.counters())}

    def square(size: int) -> None:
        matrix = torch.ones(size, size).to(device.torch_device)
        product = matrix @ matrix
        device.fence()
        del product

    seen = []
    for size in (8, 8, 9, 8, 9):
        square(size)
        count = device.counters()
        seen.append([count.compiles, count.executions])
    found["by_shape"] = seen
    found["compile_s"] = device.counters().compile_s
    before = executions(device)
    device.fence()
    found["idle_fence_executions"] = executions(device) - before
    torch.ones(2).to(device.torch_device).sum().item()
    found["after_item"] = dict(device.counters().fallbacks)
    torch.unique(torch.tensor([1, 2, 2]).to(device.torch_device))
    found["after_unique"] = dict(device.counters().fallbacks)
    found["peak_memory_bytes"] = device.peak_memory_bytes()
    found["proof"] = device.prove(case)
    found["description"] = device.describe()
    return found


def kept_outputs(device: XlaDevice, case: Knobs) -> Figures:
    """Count what is executed of outputs that nobody holds, and of those that are kept."""
    batches = [torch.randn(4, 8).to(device.torch_device) for _ in range(8)]
    case = knobs(data={"source": "device"}, loader={"batches_per_execution": 4})
    weight = torch.randn(8, 8).to(device.torch_device)

    def forward(keep: Callable[[torch.Tensor], Any]) -> int:
        feed = device.feed(itertools.cycle(batches), case)
        for _ in range(3):
            keep(next(feed) @ weight)
        dots = torch_xla._XLAC._get_xla_tensors_hlo(device._kept).count(" dot(")
        device.fence()
        return int(dots)

    dropped_before = executions(device)
    forward(id)
    dropped = executions(device) - dropped_before
    dots = forward(device.keep)
    return {
        "executions_of_dropped": dropped,
        "dots_of_kept": dots,
        "executions_of_kept": executions(device) - dropped_before - dropped,
        "held_after_fence": len(device._kept),
    }


def cuts(device: XlaDevice, case: Knobs) -> Figures:
    """Find before which batches the graph is cut, for host and resident batches."""
    found: Figures = {}
    host = (torch.ones(4, 4), torch.zeros(4, dtype=torch.long))
    for source in ("cached", "device"):
        data = {"source": source}
        asked = knobs(data=data, loader={"batches_per_execution": 4, "device_prefetch": 6})
        batch = host if source == "cached" else tuple(t.to(device.torch_device) for t in host)
        feed = device.feed(itertools.repeat(batch), asked)
        total = torch.zeros(()).to(device.torch_device)
        cut_before, compiles = [], []
        before = executions(device)
        for index in range(1, 21):
            images, _labels = next(feed)
            xm.wait_device_ops()
            if executions(device) > before:
                cut_before.append(index)
                compiles.append(device.counters().compiles)
                before = executions(device)
            total = total + images.sum()
        device.fence()
        found[source] = {
            "cut_before": cut_before,
            "compiles": compiles,
            "total": float(total),
        }
    return found


class Squares(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index * index)


def feeding(device: XlaDevice, case: Knobs) -> Figures:
    """Feed identical tensors, a failing source, a finite source, and worker processes."""
    found: Figures = {}
    one = torch.ones(2, 2)
    feed = device.feed(itertools.repeat((one, one)), knobs())
    drawn = [next(feed) for _ in range(6)]
    found["distinct_tensors"] = len({id(tensor) for batch in drawn for tensor in batch})

    def failing() -> Iterator[torch.Tensor]:
        yield torch.ones(1)
        raise ValueError("the disk is gone")

    feed = device.feed(failing(), knobs())
    next(feed)
    try:
        next(feed)
    except ValueError as error:
        found["raised"] = str(error)
    found["finite"] = [float(value) for value in device.feed(iter(torch.arange(3.0)), knobs())]
    loader = DataLoader(Squares(), batch_size=4, num_workers=2)
    asked = knobs(data={"workers": 2}, loader={"transfer_threads": 1})
    found["from_workers"] = [batch.cpu().tolist() for batch in device.feed(loader, asked)]
    found["threads_running"] = threading.active_count()
    device.close()
    found["threads_after_close"] = threading.active_count()
    return found


def queues(device: XlaDevice, case: Knobs) -> Figures:
    """Record what torch_xla's loader is constructed with."""
    found: list[Figures] = []

    class Spy(ParallelLoader):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            found.append(settings)
            super().__init__(*arguments, **settings)

    xla_feed.ParallelLoader = Spy
    device.feed(itertools.repeat(torch.ones(1)), case)
    device.close()
    return found[0]


def precision(device: XlaDevice, case: Knobs) -> Figures:
    """Prove the environment's float32, and read the types in the graph of a product."""
    found: Figures = {}
    for asked in ("fp32", "bf16-env"):
        try:
            found[asked] = device.prove(knobs(precision=asked))
        except Unsupported as error:
            found[asked] = str(error)
    matrix = torch.randn(8, 8).to(device.torch_device)
    for asked in ("fp32", "amp-bf16"):
        with device.autocast(knobs(precision=asked)):
            product = matrix @ matrix
        hlo = torch_xla._XLAC._get_xla_tensors_hlo([product])
        dot = next(line for line in hlo.splitlines() if " dot(" in line)
        found[f"{asked} product"] = [str(product.dtype), dot.split("=")[1].split("[")[0].strip()]
    return found


def threads(device: XlaDevice, case: Knobs) -> Figures:
    """Compare processor time with wall time of a product that can use every thread."""
    matrix = torch.randn(1500, 1500).to(device.torch_device)

    def work() -> None:
        product = matrix
        for _ in range(6):
            product = product @ matrix / 40
        device.fence()

    work()
    before = time.process_time()
    wall = timed(lambda: [work() for _ in range(2)])
    return {"cpu_per_wall": (time.process_time() - before) / wall}


def openxla(device: XlaDevice, case: Knobs) -> Figures:
    """Watch when a compiled forward pass is executed."""
    module = device.compile(device.place(torch.nn.Linear(16, 16), case), case)
    inputs = torch.randn(4, 16).to(device.torch_device)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = module(inputs)
        return output

    forward()
    device.fence()
    compiles = device.counters().compiles
    ran = met.metric_data("ExecuteTime")[0]
    forward()
    xm.wait_device_ops()
    return {
        "executions_without_a_cut": met.metric_data("ExecuteTime")[0] - ran,
        "compiles": compiles,
        "compiles_when_repeated": device.counters().compiles - compiles,
        "executions_reported": device.counters().executions,
    }
