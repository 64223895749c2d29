"""The lies that real torch_xla can be made to tell. Imported without it; called with it."""

from __future__ import annotations

from typing import Any


def wide_mlp(width: int = 2048) -> Any:
    """Return a model whose few large products keep the device busy while the host waits."""
    import torch

    wide = [torch.nn.Linear(width, width) for _ in range(3)]
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3072, width), *wide, torch.nn.Linear(width, 10)
    )


def nothing() -> None:
    """Plant no lie: the control."""


def fence_that_does_not_wait() -> None:
    """Cut the graph and believe `wait=True`, as its name suggests."""
    import torch_xla

    from bench.backends.xla_device import XlaDevice

    def cut(device: XlaDevice) -> None:
        torch_xla.sync(wait=True)
        device._kept.clear()

    XlaDevice.fence = cut  # type: ignore[method-assign]


def autocast_of_another_device() -> None:
    """Autocast for the CPU: XLA's operators are dispatched past it."""
    import torch

    from bench.backends.xla_device import XlaDevice

    def autocast(_device: XlaDevice, _knobs: Any) -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    XlaDevice.autocast = autocast  # type: ignore[method-assign]


def one_batch_again_and_again() -> None:
    """Hand the loader one batch object for ever: it is sent once, and counted many times."""
    from collections.abc import Iterator

    from bench.backends import xla_feed

    def repeated(source: xla_feed._Source) -> Iterator[Any]:
        batch = next(iter(source._batches))
        while True:
            yield batch

    xla_feed._Source.__iter__ = repeated  # type: ignore[method-assign]


def whole_batch_on_every_device() -> None:
    """Send batches without their sharding: every device computes all of them."""
    from bench.backends import xla_spmd

    xla_spmd._Sharding.xla_spec = lambda _self, _tensor: None  # type: ignore[method-assign]


def operator_on_the_host() -> None:
    """Put an operator without a lowering into the model: its input travels there and back."""
    import torch

    from bench.workload import models

    build = models.build

    def with_host_operator(*arguments: Any) -> models.Model:
        model = build(*arguments)

        def hook(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            return output + 0 * torch.unique(output.detach()[:1, :1]).sum()

        model.module.register_forward_hook(hook)
        return model

    models.build = with_host_operator
