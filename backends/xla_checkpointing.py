"""Activation checkpointing on XLA tensors, for models that call torch's own function.

torch's version fails on XLA tensors, and a recomputation that XLA can see through is merged with
the original by common-subexpression elimination. torch_xla's version puts a barrier between the
two (which the CPU compiler keeps only under the flag that the planning half sets), in the
re-entrant form only; here it is given the calling conventions of the other form, which
models use. Imported inside workers only.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch_xla.utils.checkpoint import checkpoint as recompute_behind_a_barrier

from bench.backends.base import Unsupported

_WITHOUT_EFFECT = frozenset({"use_reentrant", "determinism_check", "debug", "early_stop"})


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Let `torch.utils.checkpoint.checkpoint` be torch_xla's while the context lasts."""
    original = torch.utils.checkpoint.checkpoint
    torch.utils.checkpoint.checkpoint = checkpoint  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.utils.checkpoint.checkpoint = original


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `function` without keeping its activations; the backward pass computes them again.

    Keyword arguments other than torch's own options go to `function`.

    Raises:
        Unsupported: the call needs what only the non-re-entrant form can do.
    """
    if kwargs.pop("context_fn", None) is not None:
        raise _unsupported("the model passes context_fn, which torch_xla's version does not take")
    preserve = kwargs.pop("preserve_rng_state", True)
    own = {name: value for name, value in kwargs.items() if name not in _WITHOUT_EFFECT}
    if not torch.is_grad_enabled():
        return function(*args, **own)
    if any(isinstance(value, torch.Tensor) and value.requires_grad for value in own.values()):
        raise _unsupported("the model passes a tensor that needs a gradient by keyword")
    run = functools.partial(function, **own) if own else function
    return recompute_behind_a_barrier(
        run, *_with_a_gradient(args), use_reentrant=True, preserve_rng_state=preserve
    )


def _with_a_gradient(args: tuple[Any, ...]) -> tuple[Any, ...]:
    # The re-entrant form gives the parameters of a segment no gradient unless an input needs one,
    # which is not so for the first segment of a model.
    if any(isinstance(value, torch.Tensor) and value.requires_grad for value in args):
        return args
    for index, value in enumerate(args):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            leaf = value.detach().requires_grad_()
            return (*args[:index], leaf, *args[index + 1 :])
    raise _unsupported("a segment of the model has no floating-point input")


def _unsupported(reason: str) -> Unsupported:
    return Unsupported("activation_checkpointing", True, reason)
