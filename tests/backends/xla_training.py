"""Training measured inside a child of `xla_child`: recomputation, late compilations, clocks."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.utils.checkpoint
import torch_xla
from torch_xla.distributed.parallel_loader import MpDeviceLoader

from bench.backends.base import Unsupported, World
from bench.backends.xla import XlaBackend
from bench.backends.xla_device import XlaDevice
from bench.measure import diagnose
from bench.measure.alignment import Alignment
from bench.measure.warm_up import first_step, warm_up
from bench.measure.windows import Measured, WindowPlan, measure_windows
from bench.scenarios.schema import Knobs, Measure
from bench.worker import building
from bench.worker.headline import read_loss
from tests.backends.xla_experiments import Figures, timed
from tests.worker.a_job import a_case, a_job

TOLERANCE = 0.05
_ROUNDS = 2
"""At least: the interval of a median needs some values."""
_WINDOWS = 4
"""In a round: too few for the truncation rule to drop any."""
_WINDOW_S = 0.3
_NAIVE_BLOCKS = 8
_WARMING_S = 5.0
_ENOUGH_S = 60.0
"""After this, compilation included, no further round begins."""


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return the order statistics that hold the median with 95 %, for at least 8 values."""
    reach = 0.98 * math.sqrt(len(values))
    ordered = sorted(values)
    return (
        ordered[max(0, math.floor(len(values) / 2 - reach))],
        ordered[min(len(values), math.ceil(len(values) / 2 + reach)) - 1],
    )


def undecided(ratios: list[float]) -> bool:
    """Return whether the interval of the median holds an edge of the tolerance."""
    low, high = median_interval(ratios)
    return any(low <= 1 + edge <= high for edge in (-TOLERANCE, TOLERANCE))


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

    def prepared(call: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        inputs = torch.randn(900, 900).to(device.torch_device).requires_grad_()

        def work() -> None:
            inputs.grad = None
            call(inputs).square().sum().backward()
            device.fence()

        for _ in range(2):
            work()
        return work

    plain = prepared(segment)
    recomputed = prepared(lambda inputs: torch.utils.checkpoint.checkpoint(segment, inputs))
    # In turns: a machine that gets slower slows both.
    ratios = [timed(recomputed) / timed(plain) for _ in range(15)]
    return {"recomputation_ratio": statistics.median(ratios)}


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


class HandLoop:
    """The independent side: a hand-written loop with torch_xla's loader, waiting by a read."""

    def __init__(self, device: XlaDevice, case: Knobs) -> None:
        self.period = case.loader.batches_per_execution
        self.seconds: list[float] = []
        self._training = Training(device)
        self._loader = iter(
            MpDeviceLoader(
                host_batches(case.batch_size),
                device.torch_device,
                batches_per_execution=self.period,
                loader_prefetch_size=1,
                device_prefetch_size=1,
            )
        )
        # The loop shares neither the feed nor the fence.
        self._bias = next(p for p in self._training.module.parameters() if p.dim() == 1)
        self.steps = 0
        self.run(self.period - 1)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._training.step(next(self._loader))
        torch_xla.sync()
        self._bias.cpu()

    def wait(self) -> bool:
        """Compute before the harness's next window: a block as long as that, on warm caches."""
        self.run(self.period)
        self.seconds.append(timed(lambda: self.run(self.steps)))
        return True


def harness_and_hand(device: XlaDevice, case: Knobs) -> Figures:
    """Measure windows as a launch does, in turns with an independent fenced loop."""
    deadline = time.perf_counter() + _ENOUGH_S
    backend = XlaBackend()
    alignment = Alignment(
        batches_per_execution=case.loader.batches_per_execution,
        gradient_accumulation=case.gradient_accumulation,
        first_cut=backend.first_cut(case),
    )
    built = building.build(a_job(Path(), a_case(case.model_dump())), World(), device)
    step, hand = built.step, HandLoop(device, case)
    first_step(step, alignment)
    warm = warm_up(step, alignment, Measure(warmup_cap_s=_WARMING_S), backend.prefetched(case))
    plan = WindowPlan(periods_per_window=max(2, round(_WINDOW_S / warm.period_s)), windows=_WINDOWS)
    hand.steps = plan.periods_per_window * alignment.period
    hand.wait()
    before = device.counters()
    ratios: list[float] = []
    rounds: list[Measured] = []
    # Windows are added until their median is known to lie inside or outside the tolerance.
    while len(rounds) < _ROUNDS or (undecided(ratios) and time.perf_counter() < deadline):
        hand.seconds.clear()
        measured = measure_windows(step, alignment, plan, turns=hand)
        hand.wait()
        rounds.append(measured)
        # Beside the mean of the blocks before and after it, a steady drift of the machine cancels.
        blocks = zip(measured.window_s, itertools.pairwise(hand.seconds), strict=True)
        ratios += [window_s / statistics.fmean(around) for window_s, around in blocks]
    after = device.counters()
    naive_s = statistics.median(
        diagnose.naive_clock(step, alignment, plan.periods_per_window).median_s
        for _ in range(_NAIVE_BLOCKS)
    )
    true_s = statistics.median(s for m in rounds for s in m.window_s) / rounds[0].steps_per_window
    return {
        "windows": len(ratios),
        "ratio": statistics.median(ratios),
        "ratio_interval": median_interval(ratios),
        "undecided": undecided(ratios),
        "true_step_ms": 1e3 * true_s,
        "naive_ratio": naive_s / true_s,
        "compiles": after.compiles - before.compiles,
        "executions": sum(m.executions or 0 for m in rounds),
        "expected_executions": sum(m.expected_executions or 0 for m in rounds),
        "fallbacks": after.fallbacks,
        "loss": read_loss(step),
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
