"""Where samples come from: endless host loaders for every data source.

A batch is (images, labels): float32 images of shape [batch, 3, size, size] and int64 labels of
shape [batch]. Loaders never end, so no epoch boundary falls into a window. Knows nothing of
devices; `resident` builds the pool that a device source rotates through.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from bench.scenarios.schema import DEFAULT_POOL, Knobs
from bench.workload.errors import BadCase

Batch = tuple[torch.Tensor, torch.Tensor]
_CORPUS_SIDES = (500, 375)
_EPOCH = 2**31


class RandomImages(Dataset[tuple[torch.Tensor, int]]):
    """Every sample is drawn when it is asked for, as a naive loader does."""

    def __init__(self, image_size: int, classes: int) -> None:
        self._shape = (3, image_size, image_size)
        self._classes = classes

    def __len__(self) -> int:
        return _EPOCH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.randn(self._shape), index % self._classes


class PooledBatches(IterableDataset[Batch]):
    """Rotates through ready batches, handing out a copy each time.

    A copy, since a device loader that meets the same tensor object twice in one transfer sends it
    once, and the work is no longer the work that was asked for.
    """

    def __init__(self, pool: list[Batch]) -> None:
        self._pool = pool

    def __iter__(self) -> Iterator[Batch]:
        while True:
            for images, labels in self._pool:
                yield images.clone(), labels.clone()


class Corpus(Dataset[tuple[torch.Tensor, int]]):
    """Encoded JPEG images, decoded and augmented on every access by timm's transforms."""

    def __init__(
        self, encoded: list[bytes], labels: list[int], image_size: int, train: bool
    ) -> None:
        from timm.data.transforms_factory import create_transform

        self._encoded = encoded
        self._labels = labels
        self._transform = create_transform(image_size, is_training=train)

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        with Image.open(io.BytesIO(self._encoded[index])) as image:
            return self._transform(image.convert("RGB")), self._labels[index]


class Endless(Sampler[int]):
    """Draws indices with replacement, for ever."""

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randint(self._length, (1024,), generator=self._generator).tolist()


def loader(knobs: Knobs, image_size: int, seed: int) -> DataLoader[Any]:
    """Return the endless host loader of the case's source. Batches have the size asked for.

    Without workers samples are drawn in this process, so its generators are seeded here: ranks
    share the seed of their weights, and would draw the same samples.
    """
    if knobs.data.workers == 0:
        _seed_this_process(seed)
    if knobs.data.source == "cached":
        pool = PooledBatches(draw_pool(knobs, image_size, seed))
        return DataLoader(pool, batch_size=None, **_workers(knobs, seed))
    dataset = _dataset(knobs, image_size, seed)
    return DataLoader(
        dataset,
        batch_size=knobs.process_batch,
        sampler=Endless(len(cast("Corpus", dataset)), seed),
        drop_last=True,
        **_workers(knobs, seed),
    )


def draw_pool(knobs: Knobs, image_size: int, seed: int) -> list[Batch]:
    """Return distinct host batches: as many as `data.pool` says, or by default."""
    return _drawn(knobs, image_size, seed, knobs.process_batch)


def _drawn(knobs: Knobs, image_size: int, seed: int, samples: int) -> list[Batch]:
    count = knobs.data.pool or DEFAULT_POOL
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, 3, image_size, image_size)
    return [
        (
            torch.randn(shape, generator=generator),
            torch.randint(knobs.classes, (samples,), generator=generator),
        )
        for _ in range(count)
    ]


class ResidentBatches:
    """Rotates through batches that already lie on the device."""

    def __init__(self, pool: list[Batch]) -> None:
        self._pool = pool

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self._pool


def resident(knobs: Knobs, image_size: int, seed: int, device: torch.device) -> ResidentBatches:
    """Return a pool on the device; the plan refuses one no larger than a graph."""
    return _placed(draw_pool(knobs, image_size, seed), knobs, device)


def repeated(knobs: Knobs, image_size: int, seed: int, device: torch.device) -> ResidentBatches:
    """Return one batch on the device, again and again: as many copies as one graph holds.

    Copies, since a compiler that finds the same tensor twice in a graph may merge their work. All
    devices of a process have the same samples, so that the mean over them is that of one device.
    """
    images, labels = _drawn(knobs, image_size, seed, knobs.batch_size)[0]
    devices = knobs.devices_per_process
    images, labels = images.repeat(devices, 1, 1, 1), labels.repeat(devices)
    copies = range(knobs.loader.batches_per_execution)
    return _placed([(images.clone(), labels.clone()) for _ in copies], knobs, device)


def _placed(pool: list[Batch], knobs: Knobs, device: torch.device) -> ResidentBatches:
    dtype = torch.bfloat16 if knobs.precision == "bf16" else torch.float32
    return ResidentBatches(
        [(images.to(dtype).to(device), labels.to(device)) for images, labels in pool]
    )


def _seed_this_process(seed: int) -> None:
    # timm's transforms draw from all three; a worker process seeds its own.
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _workers(knobs: Knobs, seed: int) -> dict[str, Any]:
    # A worker's seed derives from this generator, so ranks and launches draw different samples.
    generator = torch.Generator().manual_seed(seed)
    settings: dict[str, Any] = {
        "num_workers": knobs.data.workers,
        "pin_memory": knobs.data.pin_memory,
        "generator": generator,
    }
    if knobs.data.workers:
        settings["persistent_workers"] = True
        settings["prefetch_factor"] = knobs.data.prefetch or 2
    return settings


def _dataset(knobs: Knobs, image_size: int, seed: int) -> Dataset[tuple[torch.Tensor, int]]:
    if knobs.data.source == "random":
        return RandomImages(image_size, knobs.classes)
    train = knobs.task == "train"
    if knobs.data.source == "jpeg":
        encoded = generate_corpus(knobs.data.images or 256, seed)
        labels = [i % knobs.classes for i in range(len(encoded))]
        return Corpus(encoded, labels, image_size, train)
    return _folder(knobs, image_size, train)


def generate_corpus(images: int, seed: int) -> list[bytes]:
    """Return JPEG files of photographs' usual size (500 x 375) with smooth random content."""
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    width, height = _CORPUS_SIDES
    encoded = []
    for _ in range(images):
        coarse = torch.rand((1, 3, height // 25, width // 25), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        grain = 0.05 * torch.randn((1, 3, height, width), generator=generator)
        pixels = ((smooth + grain).clamp(0, 1) * 255).to(torch.uint8)[0].permute(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(pixels.contiguous().numpy()).save(file, format="JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


def _folder(knobs: Knobs, image_size: int, train: bool) -> Dataset[tuple[torch.Tensor, int]]:
    from timm.data.transforms_factory import create_transform
    from torchvision.datasets import ImageFolder

    path = _expanded(knobs.data.source.removeprefix("folder:"))
    if not path.is_dir():
        raise BadCase(f"data.source=folder:{path}: there is no such folder")
    try:
        folder = ImageFolder(str(path), transform=create_transform(image_size, is_training=train))
    except FileNotFoundError as error:
        raise BadCase(
            f"data.source=folder:{path}: expected one sub-folder of images per class: {error}"
        ) from error
    if len(folder.classes) > knobs.classes:
        raise BadCase(
            f"data.source=folder:{path}: it has {len(folder.classes)} classes and the model "
            f"{knobs.classes}: set classes={len(folder.classes)}"
        )
    return cast("Dataset[tuple[torch.Tensor, int]]", folder)


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BadCase(
            f"data.source=folder:{path}: there is no home folder to put in place of "
            f"{path.partition('/')[0]}"
        ) from error
