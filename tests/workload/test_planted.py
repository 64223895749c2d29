"""The work that benchmarks/aa.py plants: exactly one more training step in twenty, and no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.planted_vit import VARIABLE, WithTwin, build

ARGUMENTS: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "classes": 10,
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 2,
}
pytestmark = pytest.mark.torch


def trained(model: torch.nn.Module, steps: int) -> int:
    """Train for so many steps and return how many updates of any optimizer there were."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    updates = 0

    def count(*_: Any) -> None:
        nonlocal updates
        updates += 1

    handle = register_optimizer_step_post_hook(count)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(
            model(torch.randn(4, 3, 32, 32)), torch.randint(10, (4,))
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.remove()
    return updates


def test_without_the_variable_it_is_the_plain_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not isinstance(build(**ARGUMENTS), WithTwin)


def test_one_step_in_twenty_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "20")
    assert trained(build(**ARGUMENTS), 40) == 42


def test_the_twin_is_no_part_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    planted = build(**ARGUMENTS)
    monkeypatch.delenv(VARIABLE)
    plain = build(**ARGUMENTS)
    shapes = [tuple(p.shape) for p in planted.parameters()]
    assert shapes == [tuple(p.shape) for p in plain.parameters()]
    images = torch.randn(2, 3, 32, 32)
    planted.train()
    before = [p.detach().clone() for p in planted.parameters()]
    planted(images)
    assert all(torch.equal(x, y) for x, y in zip(before, planted.parameters(), strict=True))
    assert all(p.grad is None for p in planted.parameters())


def test_inference_does_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    planted = build(**ARGUMENTS).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(planted(images), planted(images))
