"""Training measured inside a child of `xla_child`: recomputation, late compilations, clocks."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torch.utils.checkpoint
import torch_xla
from torch_xla.distributed.parallel_loader import MpDeviceLoader

from bench.backends.base import Unsupported
from bench.backends.xla_device import XlaDevice
from bench.scenarios.schema import Knobs
from tests.backends.xla_experiments import Figures, timed

_PAIRS = 16
_TOLERANCE = 0.05
_PAIRING_S = 120.0


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return the order statistics that hold the median with 95 %, for at least 12 values."""
    reach = 0.98 * math.sqrt(len(values))
    ordered = sorted(values)
    return (
        ordered[math.floor(len(values) / 2 - reach)],
        ordered[math.ceil(len(values) / 2 + reach) - 1],
    )


def ratios(windows: list[tuple[float, float]]) -> list[float]:
    return [fed_s / hand_s for fed_s, hand_s in windows]


def inconclusive(windows: list[tuple[float, float]]) -> bool:
    low, high = median_interval(ratios(windows))
    inside = low > 1 - _TOLERANCE and high < 1 + _TOLERANCE
    return not inside and low < 1 + _TOLERANCE and high > 1 - _TOLERANCE


def small_vit() -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=2,
        num_classes=10,
    )
    return model


def gradients(device: XlaDevice, checkpointed: bool) -> list[torch.Tensor]:
    module = small_vit()
    module.set_grad_checkpointing(checkpointed)
    module.to(device.torch_device)
    torch.manual_seed(1)
    images = torch.randn(4, 3, 32, 32).to(device.torch_device)
    module(images).square().mean().backward()
    device.fence()
    return [parameter.grad.cpu() for parameter in module.parameters()]


def checkpointing(device: XlaDevice, case: Knobs) -> Figures:
    """Compare gradients and times with and without recomputation."""
    original = torch.utils.checkpoint.checkpoint
    plain = gradients(device, checkpointed=False)
    found: Figures = {}
    try:
        gradients(device, checkpointed=True)
    except AttributeError as error:
        found["torch_alone"] = str(error)
    torch_xla.sync()
    with device.checkpointing():
        recomputed = gradients(device, checkpointed=True)
        found |= _recomputation_time(device) | _first_segment(device)
        try:
            torch.utils.checkpoint.checkpoint(torch.sin, torch.ones(1), context_fn=lambda: None)
        except Unsupported as error:
            found["context_fn"] = str(error)
    pairs = zip(plain, recomputed, strict=True)
    found["gradient_error"] = max(float((a - b).abs().max()) for a, b in pairs)
    found["gradient_size"] = max(float(gradient.abs().max()) for gradient in plain)
    found["restored"] = torch.utils.checkpoint.checkpoint is original
    return found


def _recomputation_time(device: XlaDevice) -> Figures:
    # Forward k products and backward k products; recomputing adds k: 1.5 times the work. The
    # gradient depends on the output, or the first of the two forward passes would be dead code.
    matrix = torch.randn(900, 900).to(device.torch_device) / 30

    def segment(inputs: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            inputs = (inputs @ matrix).tanh()
        return inputs

    def run(call: Callable[[torch.Tensor], torch.Tensor]) -> float:
        inputs = torch.randn(900, 900).to(device.torch_device).requires_grad_()

        def work() -> None:
            inputs.grad = None
            call(inputs).square().sum().backward()
            device.fence()

        for _ in range(2):
            work()
        return min(timed(work) for _ in range(7))

    plain = run(segment)
    recomputed = run(lambda inputs: torch.utils.checkpoint.checkpoint(segment, inputs))
    return {"recomputation_ratio": recomputed / plain}


def _first_segment(device: XlaDevice) -> Figures:
    """Checkpoint a segment none of whose inputs needs a gradient, with a tensor by keyword."""
    layer = torch.nn.Linear(3, 3).to(device.torch_device)
    inputs = torch.ones(2, 3).to(device.torch_device)

    def segment(values: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        return layer(values) * scale

    scale = torch.full((1,), 5.0).to(device.torch_device)
    torch.utils.checkpoint.checkpoint(
        segment, inputs, use_reentrant=False, scale=scale
    ).sum().backward()
    device.fence()
    assert layer.weight.grad is not None
    return {"first_segment_gradient": layer.weight.grad.cpu().flatten().tolist()}


class Training:
    """A hand-written training loop over the small ViT."""

    def __init__(self, device: XlaDevice) -> None:
        self.device = device
        self.module = small_vit().to(device.torch_device)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=1e-3, momentum=0.9)
        self.criterion = torch.nn.CrossEntropyLoss()

    def step(self, batch: Any) -> None:
        images, labels = batch
        self.optimizer.zero_grad(set_to_none=True)
        self.criterion(self.module(images), labels).backward()
        self.device.step_optimizer(self.optimizer)


def host_batches(size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    pool = [(torch.randn(size, 3, 32, 32), torch.randint(10, (size,))) for _ in range(8)]
    yield from itertools.cycle(pool)


def grouped_steps(device: XlaDevice, case: Knobs) -> Figures:
    """Time windows through the feed, an independent fenced loop, and an unfenced step clock."""
    per_graph = case.loader.batches_per_execution
    fed, by_hand = Training(device), Training(device)
    feed = device.feed(host_batches(case.batch_size), case)
    loader = iter(
        MpDeviceLoader(
            host_batches(case.batch_size),
            device.torch_device,
            batches_per_execution=per_graph,
            loader_prefetch_size=1,
            device_prefetch_size=1,
        )
    )
    # Waiting by a read: the loop shares neither the feed nor the fence.
    bias = next(p for p in by_hand.module.parameters() if p.dim() == 1)
    step_times: list[float] = []

    def through_feed(steps: int) -> None:
        step_times.extend(timed(lambda: fed.step(next(feed))) for _ in range(steps))
        device.fence()

    def independently(steps: int) -> None:
        for _ in range(steps):
            by_hand.step(next(loader))
        torch_xla.sync()
        bias.cpu()

    through_feed(per_graph - 1)
    # The queues, short here, fill while graphs are compiled: draw them empty first. A long queue
    # would also be filled again while the loop beside it is timed.
    through_feed(per_graph * 4)
    independently(per_graph - 1)
    independently(per_graph * 4)
    steps = per_graph * 2
    before = device.counters()
    step_times.clear()
    windows: list[tuple[float, float]] = []
    deadline = time.perf_counter() + _PAIRING_S
    # Pairs are added until their median is known to lie inside or outside the tolerance: on a busy
    # machine that takes many.
    while len(windows) < _PAIRS or (inconclusive(windows) and time.perf_counter() < deadline):
        # In both orders, since whoever goes second meets what the first left behind.
        fed_s, hand_s = timed(lambda: through_feed(steps)), timed(lambda: independently(steps))
        windows.append((fed_s, hand_s))
        hand_s, fed_s = timed(lambda: independently(steps)), timed(lambda: through_feed(steps))
        windows.append((fed_s, hand_s))
    after = device.counters()
    naive = statistics.median(step_times)
    true = statistics.median(fed for fed, _ in windows) / steps
    return {
        "pairs": len(windows),
        "ratio": statistics.median(ratios(windows)),
        "ratio_interval": median_interval(ratios(windows)),
        "true_step_ms": 1e3 * true,
        "naive_ratio": naive / true,
        "compiles": after.compiles - before.compiles,
        "executions": (after.executions or 0) - (before.executions or 0),
        "expected_executions": len(windows) * 2 * steps // per_graph,
        "fallbacks": dict(after.fallbacks),
        "loss_is_finite": bool(
            torch.isfinite(fed.criterion(fed.module(next(feed)[0]), next(feed)[1])).item()
        ),
    }


def late_compiles(device: XlaDevice, case: Knobs) -> Figures:
    """Find the steps after which an Adam update over a tiny model was compiled anew."""
    layer = torch.nn.Linear(4, 4).to(device.torch_device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    pool = [(torch.ones(2, 4).to(device.torch_device),) for _ in range(8)]
    feed = device.feed(itertools.cycle(pool), case)
    found, seen = [], 0
    for step in range(1, 401):
        (inputs,) = next(feed)
        optimizer.zero_grad(set_to_none=True)
        layer(inputs).square().mean().backward()
        device.step_optimizer(optimizer)
        if (compiles := device.counters().compiles) > seen:
            found.append(step)
            seen = compiles
    return {"steps": found}
