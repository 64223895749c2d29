"""The format of a product is read from numbers that survive in one format and not in another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.workload import rounding
from bench.workload.rounding import Rounding

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
EPSILON = {"fp32": 2.0**-23, "tf32": 2.0**-10, "fp16": 2.0**-10, "bf16": 2.0**-7}


def uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    return module


def found(
    context: Callable[[], Any] = contextlib.nullcontext,
    dtype: torch.dtype = torch.float32,
    *,
    convolution: bool = True,
) -> Rounding:
    return rounding.of_products(CPU, context, dtype, uncompiled, convolution=convolution)


class Coarse(TorchDispatchMode):
    """Multiplies as hardware does that drops bits of a float32: no type anywhere tells of it."""

    def __init__(self, bits: int, operators: tuple[str, ...] = ("mm", "convolution")) -> None:
        super().__init__()
        self._mask = -(1 << (23 - bits))
        self._operators = operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in self._operators:
            args = [*(self._dropped(operand) for operand in args[:2]), *args[2:]]
        return func(*args, **(kwargs or {}))

    def _dropped(self, operand: torch.Tensor) -> torch.Tensor:
        return (operand.contiguous().view(torch.int32) & self._mask).view(torch.float32)


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize(
    ("name", "context", "dtype"),
    [
        ("fp32", contextlib.nullcontext, torch.float32),
        ("bf16", lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.float32),
        ("fp16", lambda: torch.autocast("cpu", dtype=torch.float16), torch.float32),
        ("bf16", contextlib.nullcontext, torch.bfloat16),
        ("fp16", contextlib.nullcontext, torch.float16),
        ("tf32", lambda: Coarse(10), torch.float32),
        ("bf16", lambda: Coarse(7), torch.float32),
    ],
)
def test_each_format_is_told_from_every_other(
    name: str, context: Callable[[], Any], dtype: torch.dtype, convolution: bool
) -> None:
    product = found(context, dtype, convolution=convolution)
    assert product.format == name
    # The error is that of the format: a few roundings, and nowhere near the next coarser one.
    assert 0.03 * EPSILON[name] < product.error < 3 * EPSILON[name]


def test_an_autocast_of_the_wrong_device_type_rounds_nothing() -> None:
    with pytest.warns(UserWarning, match="autocast"):
        assert found(lambda: torch.autocast("cuda", dtype=torch.bfloat16)).format == "fp32"


def test_the_coarser_of_product_and_convolution_is_told() -> None:
    """A GPU that convolves in TF32 and multiplies in float32, as torch's defaults have it."""
    coarse = found(lambda: Coarse(10, ("convolution",)))
    assert coarse.format == "tf32"
    assert found(lambda: Coarse(10, ("convolution",)), convolution=False).format == "fp32"


@pytest.mark.parametrize(
    ("bits", "range_kept", "name"),
    [
        (23, True, "fp32"),
        (21, True, "fp32"),
        (15, True, None),
        (10, True, "tf32"),
        (10, False, "fp16"),
        (8, True, None),
        (7, True, "bf16"),
        (3, False, "fp8"),
        (2, False, "fp8"),
        (0, True, None),
    ],
)
def test_bits_that_no_format_keeps_have_no_name(
    bits: int, range_kept: bool, name: str | None
) -> None:
    assert Rounding(error=0.0, bits=bits, range_kept=range_kept).format == name


def test_a_flag_that_lowers_float32_products_is_seen_where_it_acts() -> None:
    """torch passes it on to oneDNN, which follows it on processors with matrix instructions."""
    before = torch.get_float32_matmul_precision()
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    try:
        acts = float(((left @ right).double() - exact).norm() / exact.norm()) > 1e-5
        product = found(convolution=False)
    finally:
        torch.set_float32_matmul_precision(before)
    assert product.format == ("bf16" if acts else "fp32")
