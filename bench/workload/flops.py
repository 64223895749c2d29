"""How many floating-point operations a sample costs, counted once on the meta device.

There every operator has its formula and nothing is computed or allocated. On a real device the
fused attention of some backends has none, and on others it counts what it computes twice. What is
counted is the model's own work: the recomputation that checkpointing adds is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.scenarios.schema import Knobs
from bench.workload import models

_BATCH = 2
"""Normalisation over a batch of one is an error in some models."""


@dataclass(frozen=True)
class Flops:
    """A count, or why there is none."""

    per_sample: float | None = None
    """Of the model's matrix products and convolutions, two for a multiplication and an addition:
    forward and backward when training, forward alone for inference."""
    reason: str | None = None


def count(knobs: Knobs, image_size: int) -> Flops:
    """Count the operations of the case's model.

    Args:
        knobs: Which model, and whether it is trained.
        image_size: Height and width of its input. Unit: pixels.
    """
    uncheckpointed = knobs.model_copy(update={"activation_checkpointing": False})
    try:
        with torch.device("meta"):
            model = models.build(uncheckpointed).module
            images = torch.empty(_BATCH, 3, image_size, image_size)
            labels = torch.zeros(_BATCH, dtype=torch.int64)
        # A buffer that a model makes from numbers may lie on the host all the same.
        model = model.to("meta")
        with FlopCounterMode(display=False, custom_mapping=_OURS) as counter:
            if knobs.task == "train":
                loss = torch.nn.functional.cross_entropy(model(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                with torch.no_grad():
                    model(images)
    except Exception as error:  # a model of the user's may do anything, and need not run here
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Flops(reason=f"the model does not run on the meta device: {first}")
    total = counter.get_total_flops()
    if total == 0:
        return Flops(reason="the model has no product that the counter knows")
    return Flops(per_sample=total / _BATCH)


def _convolution_backward(
    grad_out: Sequence[int],
    images: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    output_mask: Sequence[bool],
    **_: Any,
) -> int:
    """Count a convolution's backward pass: as much as forward, for images and for weights each.

    torch's own formula multiplies by the number of groups: 41 times the forward pass for a network
    of depth-wise convolutions.

    Args:
        grad_out: Shape of the gradient of the output, [batch, channels, ...].
        images: Shape of the input.
        weight: Shape of the kernels, [channels, channels / groups, ...].
        transposed: Whether it is a transposed convolution, whose kernels lie on the input's pixels.
        output_mask: Which gradients are computed: of the images, of the weights, of the bias.
    """
    pixels = images if transposed else grad_out
    forward = 2 * pixels[0] * math.prod(pixels[2:]) * math.prod(weight)
    return forward * (bool(output_mask[0]) + bool(output_mask[1]))


_OURS = {torch.ops.aten.convolution_backward: _convolution_backward}
