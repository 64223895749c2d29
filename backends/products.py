"""Which products a piece of work computes, and in which types, counted as they are dispatched.

Autocast casts before this point, so the types are those that the kernels are given. Imported inside
workers only: it uses torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_FIRST_TWO, _AFTER_THE_BIAS = (0, 1), (1, 2)
_OPERANDS = {
    **dict.fromkeys(("mm", "bmm", "mv", "matmul", "linear"), _FIRST_TWO),
    **dict.fromkeys(("_scaled_mm", "_scaled_mm_v2", "_int_mm"), _FIRST_TWO),
    **dict.fromkeys(("_grouped_mm", "_scaled_grouped_mm"), _FIRST_TWO),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _FIRST_TWO),
    # Under inference_mode what is composed of other operators is dispatched whole.
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "scaled_dot_product_attention"), _FIRST_TWO),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _FIRST_TWO),
    **dict.fromkeys(("convolution_backward", "convolution_backward_overrideable"), _FIRST_TWO),
    **dict.fromkeys(("cudnn_convolution", "mkldnn_convolution"), _FIRST_TWO),
    # What inductor puts in the place of some of these on a CPU.
    **dict.fromkeys(("_linear_pointwise", "_mkl_linear", "_convolution_pointwise"), _FIRST_TWO),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation"), _AFTER_THE_BIAS),
}
"""Operators that multiply matrices, and the places of the two operands among their arguments."""
_ATTENTION = ("_scaled_dot_product_", "_flash_attention_", "_efficient_attention_")
"""Fused attention, forward and backward: several products in one operator, counted as one."""
_NAMES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "int8",
    torch.uint8: "int8",
}
_NO_NUMBERS = frozenset({torch.bool, torch.int16, torch.int32, torch.int64})
"""They count or address something: no precision was asked for them."""


class Dispatched(TorchDispatchMode, ABC):  # type: ignore[no-untyped-call]
    """Counts operators, by a name that it gives them, while it is active.

    Code that was compiled before goes on running compiled under it: what is seen then is what the
    compiled code leaves to libraries.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: Counter[str] = Counter()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Tell torch.compile not to step aside while this mode is active."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the operator, and run it."""
        self.look(func, args)
        return func(*args, **(kwargs or {}))

    @abstractmethod
    def look(self, func: Any, args: Sequence[Any]) -> None:
        """Count the operator, if it is one of those that are looked for."""


class DispatchedAttention(Dispatched):  # type: ignore[no-untyped-call]
    """Counts the kernels that compute attention.

    Attention that torch computes by separate products is none of them.
    """

    def look(self, func: Any, args: Sequence[Any]) -> None:
        """Count a kernel of fused attention."""
        name = func._schema.name.rpartition("::")[2]
        if name.startswith(_ATTENTION):
            self.counted[name.strip("_")] += 1


class DispatchedProducts(Dispatched):  # type: ignore[no-untyped-call]
    """Counts matrix products and convolutions by the type of their operands."""

    def look(self, func: Any, args: Sequence[Any]) -> None:
        """Count a product."""
        note(self.counted, func, args)


def dispatched(run: Callable[[], Any]) -> dict[str, int]:
    """Return how many products of each type of operands the work dispatches.

    Args:
        run: The work, forward and backward.

    Returns:
        Count by name (fp32, bf16, ...); two different types are joined, as in bf16+fp32.
    """
    with DispatchedProducts() as counter:
        run()
    return dict(counter.counted)


def counting_backend(counts: Counter[str]) -> Callable[..., Any]:
    """Return a torch.compile backend that counts the products of the graphs it is given.

    They are the traced forward and backward graphs, as another backend would be given them; they
    run operator by operator.

    Args:
        counts: Is added to, by the type of the operands.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func

    def compiler(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        for node in graph.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload):
                note(counts, node.target, [_value(argument) for argument in node.args])
        return make_boxed_func(graph.forward)

    backend: Callable[..., Any] = aot_autograd(fw_compiler=compiler)
    return backend


def note(counts: Counter[str], operator: Any, args: Sequence[Any]) -> None:
    """Count the operator by the type of its operands, if it is a product."""
    places = _places(operator._schema.name.rpartition("::")[2])
    operands = [args[place] for place in places if place < len(args)]
    names = {_named(operand.dtype) for operand in operands if isinstance(operand, torch.Tensor)}
    known = sorted(name for name in names if name is not None)
    if known:
        counts["+".join(known)] += 1


def _value(argument: Any) -> Any:
    return argument.meta.get("val") if isinstance(argument, torch.fx.Node) else argument


def _places(name: str) -> tuple[int, ...]:
    return _FIRST_TWO if name.startswith(_ATTENTION) else _OPERANDS.get(name, ())


def _named(dtype: torch.dtype) -> str | None:
    if dtype in _NO_NUMBERS:
        return None
    short = str(dtype).removeprefix("torch.")
    return _NAMES.get(dtype, "fp8" if short.startswith("float8") else short)
