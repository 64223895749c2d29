"""The smallest real ViT, as knobs; torch-free."""

from __future__ import annotations

from typing import Any

SMALL_VIT: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "model_kwargs": {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2},
    "image_size": 32,
    "classes": 10,
    "batch_size": 8,
    "threads": 1,
}
"""About 3 ms a training step on one core."""
