"""To which format matrix products round, found by computing products whose results are known.

Flags, libraries and compilers may compute a product of float32 matrices in fewer bits than its
operands have, and no type in a graph shows it. A number 1 + 2**-k needs k bits after the point, and
its product with 1 gives it back only where that many are kept. Knows no device and no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

_SIZE = 256
"""Rows and columns: large enough for a library to take the way it takes for a model."""
_BITS = range(1, 24)
_BEYOND_FP16 = 2.0**17
"""More than the largest number of fp16, whose 10 bits are as many as those of tf32."""
_LEAST_BITS_OF_FP32 = 20
"""A sum of three products of parts (3xTF32, bf16x3) keeps most bits of fp32, and is taken for it.
"""
_FORMATS = {10: "tf32", 7: "bf16", 3: "fp8", 2: "fp8"}
_SEED = 2


@dataclass(frozen=True)
class Rounding:
    """What became of a product of float32 matrices."""

    error: float
    """Relative error against float64, over all elements (quotient of Frobenius norms)."""
    bits: int
    """After the point, that came back from a product with 1."""
    range_kept: bool
    """Whether a number beyond the range of fp16 came back."""

    @property
    def format(self) -> str | None:
        """Return fp32, tf32, bf16, fp16 or fp8; null: no format that is known rounds like this."""
        if self.bits >= _LEAST_BITS_OF_FP32:
            return "fp32"
        name = _FORMATS.get(self.bits)
        return "fp16" if name == "tf32" and not self.range_kept else name


def of_products(
    device: torch.device,
    context: Callable[[], AbstractContextManager[Any]],
    dtype: torch.dtype,
    compiled: Callable[[torch.nn.Module], torch.nn.Module],
    *,
    convolution: bool,
) -> Rounding:
    """Multiply known matrices as a step would, and tell what came back.

    Args:
        device: Where to multiply.
        context: Of the forward pass: autocast, or nothing.
        dtype: What the step turns its float32 inputs into.
        compiled: Returns a module as the model's is compiled: a compiler may round, too.
        convolution: Whether to look at a convolution too; the coarser of the two is returned.
    """
    left, right = _matrices()
    operations = [_Multiplied(), _Convolved()] if convolution else [_Multiplied()]
    found = []
    for operation in operations:
        module = compiled(operation)
        with torch.no_grad(), context():
            product = module(left.to(device).to(dtype), right.to(device).to(dtype))
        found.append(_judged(left, right, product.cpu().double()))
    return min(found, key=lambda rounding: rounding.bits)


def _matrices() -> tuple[torch.Tensor, torch.Tensor]:
    """Return [known; random] of shape [2 n, n] and [identity, random] of shape [n, 2 n]."""
    generator = torch.Generator().manual_seed(_SEED)
    known = torch.ones(_SIZE, _SIZE)
    for row, bits in enumerate(_BITS):
        known[row] += 2.0**-bits
    known[len(_BITS)] = _BEYOND_FP16
    rows = torch.randn(_SIZE, _SIZE, generator=generator)
    columns = torch.randn(_SIZE, _SIZE, generator=generator)
    return torch.cat([known, rows]), torch.cat([torch.eye(_SIZE), columns], dim=1)


class _Multiplied(torch.nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left @ right


class _Convolved(torch.nn.Module):
    """Multiplies by a convolution with kernels of one pixel: rows are pixels, columns channels."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        height = 16
        pixels = left.T.reshape(1, _SIZE, height, -1)
        kernels = right.T.reshape(-1, _SIZE, 1, 1)
        return torch.nn.functional.conv2d(pixels, kernels)[0].flatten(1).T


def _judged(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> Rounding:
    known, back = left[: len(_BITS) + 1].double(), product[: len(_BITS) + 1, :_SIZE]
    same = (back == known).all(dim=1).tolist()
    bits = 0
    while bits < len(_BITS) and same[bits]:
        bits += 1
    exact = left[_SIZE:].double() @ right[:, _SIZE:].double()
    wrong = product[_SIZE:, _SIZE:] - exact
    return Rounding(float(wrong.norm() / exact.norm()), bits, range_kept=same[-1])
