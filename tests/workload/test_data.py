"""Data: what every source hands out, and that no two batches are secretly the same."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bench.scenarios.schema import Knobs
from bench.workload import data
from bench.workload.errors import BadCase

pytestmark = pytest.mark.torch
SIZE, CLASSES, BATCH = 32, 3, 4


def knobs(source: str, **settings: Any) -> Knobs:
    return Knobs.model_validate(
        {
            "classes": CLASSES,
            "batch_size": BATCH,
            "data": {"source": source, **settings},
        }
    )


def drawn(wanted: Knobs, count: int, seed: int = 0) -> list[data.Batch]:
    """Return so many batches as the case draws them, after weights that all ranks share."""
    torch.manual_seed(0)
    return list(itertools.islice(data.loader(wanted, SIZE, seed), count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("cat", "dog", "eel")):
        (tmp_path / name).mkdir()
        for number in range(2):
            shade = Image.new("RGB", (40 + 9 * number, 50), (80 * index, 90, 30))
            shade.save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("source", ["random", "cached", "jpeg"])
def test_every_source_hands_out_float_images_and_integer_labels(source: str) -> None:
    settings = {"images": 6} if source == "jpeg" else {}
    for images, labels in drawn(knobs(source, **settings), 5):
        assert images.shape == (BATCH, 3, SIZE, SIZE)
        assert images.dtype == torch.float32
        assert labels.shape == (BATCH,)
        assert labels.dtype == torch.int64
        assert int(labels.min()) >= 0
        assert int(labels.max()) < CLASSES


def test_an_image_folder_is_read_endlessly_with_its_own_labels(folder: Path) -> None:
    # 6 images, 20 samples: more than an epoch.
    batches = drawn(knobs(f"folder:{folder}"), 5)
    assert all(images.shape == (BATCH, 3, SIZE, SIZE) for images, _ in batches)
    assert {int(label) for _, labels in batches for label in labels} == {0, 1, 2}


@pytest.mark.parametrize("source", ["random", "cached"])
def test_loaders_outlast_any_epoch_and_pool(source: str) -> None:
    assert len(drawn(knobs(source), 300)) == 300


def test_the_pool_holds_as_many_distinct_batches_as_asked_and_then_repeats() -> None:
    batches = [images for images, _ in drawn(knobs("cached", pool=3), 7)]
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[1], batches[2])
    assert torch.equal(batches[0], batches[3])
    assert torch.equal(batches[0], batches[6])


def test_a_batch_that_comes_round_again_is_a_tensor_of_its_own() -> None:
    first, second = (images for images, _ in drawn(knobs("cached", pool=1), 2))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()
    first.zero_()
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize("source", ["random", "cached", "jpeg"])
@pytest.mark.parametrize("workers", [0, 1])
def test_ranks_with_different_seeds_draw_different_samples_and_equal_seeds_equal_ones(
    source: str, workers: int
) -> None:
    settings: dict[str, Any] = {"images": 6} if source == "jpeg" else {}
    wanted = knobs(source, workers=workers, **settings)
    rank0, again, rank1 = (drawn(wanted, 2, seed)[1][0] for seed in (0, 0, 1))
    assert torch.equal(rank0, again)
    assert not torch.equal(rank0, rank1)


def test_resident_batches_differ_between_ranks() -> None:
    wanted, host = knobs("device", pool=2), torch.device("cpu")
    rank0, again, rank1 = (
        next(iter(data.resident(wanted, SIZE, seed, host)))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(rank0, again)
    assert not torch.equal(rank0, rank1)


def test_two_workers_do_not_draw_the_same_samples() -> None:
    first, second = (images for images, _ in drawn(knobs("random", workers=2), 2))
    assert not torch.equal(first, second)


def test_workers_prefetch_as_asked() -> None:
    loader = data.loader(knobs("random", workers=1, prefetch=5), SIZE, 0)
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (1, 5, True)


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("source", ["random", "cached", "jpeg"])
def test_host_batches_are_page_locked_as_asked(source: str, pinned: bool) -> None:
    settings: dict[str, Any] = {"images": 1} if source == "jpeg" else {}
    wanted = knobs(source, pin_memory=pinned, **settings)
    assert data.loader(wanted, SIZE, 0).pin_memory is pinned


def test_the_corpus_is_real_jpeg_of_a_photographs_size() -> None:
    [encoded] = data.generate_corpus(1, seed=0)
    with Image.open(io.BytesIO(encoded)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (500, 375), "RGB")
        shades = len(image.getcolors(maxcolors=500 * 375) or ())
    # A flat image would decode faster than a photograph.
    assert shades > 1000
    assert len(encoded) > 10_000


def test_training_draws_a_new_crop_of_an_image_on_every_access_and_inference_does_not() -> None:
    encoded = data.generate_corpus(1, seed=0)
    train = data.Corpus(encoded, [0], SIZE, train=True)
    assert not torch.equal(train[0][0], train[0][0])
    evaluated = data.Corpus(encoded, [0], SIZE, train=False)
    assert torch.equal(evaluated[0][0], evaluated[0][0])


def test_jpeg_samples_are_opened_anew_on_every_access(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    real = Image.open

    def spy(file: Any) -> Image.Image:
        opened.append(file)
        return real(file)

    monkeypatch.setattr(Image, "open", spy)
    drawn(knobs("jpeg", images=2), 3)
    assert len(opened) == 3 * BATCH


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_resident_batches_have_the_type_that_the_model_takes(precision: str, dtype: str) -> None:
    wanted = knobs("device", pool=2).model_copy(update={"precision": precision})
    resident = data.resident(wanted, SIZE, 0, torch.device("cpu"))
    batches = list(itertools.islice(resident, 3))
    assert batches[0][0].dtype == getattr(torch, dtype)
    assert batches[0][0].data_ptr() == batches[2][0].data_ptr()


@pytest.mark.parametrize(
    ("pool", "per_graph", "held"), [(None, 4, 8), (None, 10, 11), (5, 4, 5), (2, 1, 2), (12, 9, 12)]
)
def test_the_resident_pool_is_as_large_as_its_knob_says_and_null_exceeds_a_graph(
    pool: int | None, per_graph: int, held: int
) -> None:
    wanted = Knobs.model_validate(
        {
            "batch_size": 1,
            "data": {"source": "device", "pool": pool},
            "loader": {"batches_per_execution": per_graph},
        }
    )
    assert wanted.data.pool == held
    resident = data.resident(wanted, 4, 0, torch.device("cpu"))
    addresses = [images.data_ptr() for images, _ in itertools.islice(resident, held + 1)]
    assert len(set(addresses)) == held
    assert addresses[held] == addresses[0]


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_that_holds_no_classes_is_a_clear_mistake(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadCase, match=f"folder:.*{name}: (there is no such|expected one sub-)"):
        data.loader(knobs(f"folder:{tmp_path / name}"), SIZE, 0)


def test_a_folder_of_a_user_who_does_not_exist_is_a_clear_mistake() -> None:
    with pytest.raises(BadCase, match=r"folder:~nosuchuser/x: there is no home .* ~nosuchuser$"):
        data.loader(knobs("folder:~nosuchuser/x"), SIZE, 0)


def test_a_folder_with_more_classes_than_the_model_names_the_remedy(folder: Path) -> None:
    wanted = knobs(f"folder:{folder}").model_copy(update={"classes": 2})
    with pytest.raises(BadCase, match="3 classes and the model 2: set classes=3"):
        data.loader(wanted, SIZE, 0)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_one_batch_comes_again_and_again_as_a_tensor_of_its_own_within_a_graph(
    precision: str, dtype: str
) -> None:
    wanted = Knobs.model_validate(
        {
            "batch_size": 2,
            "precision": precision,
            "data": {"source": "device", "pool": 1},
            "loader": {"batches_per_execution": 3},
        }
    )
    cpu = torch.device("cpu")
    batches = list(itertools.islice(data.repeated(wanted, 4, 5, cpu), 7))
    assert all(torch.equal(images, batches[0][0]) for images, _ in batches)
    assert all(torch.equal(labels, batches[0][1]) for _, labels in batches)
    assert batches[0][0].dtype == getattr(torch, dtype)
    assert len({images.data_ptr() for images, _ in batches[:3]}) == 3
    assert batches[3][0].data_ptr() == batches[0][0].data_ptr()
    other = next(iter(data.repeated(wanted, 4, 6, cpu)))
    assert not torch.equal(other[0], batches[0][0])


def test_every_device_of_a_process_has_a_part_of_a_batch_and_the_one_batch_whole() -> None:
    pair = Knobs.model_validate(
        {"engine": "spmd", "spmd": {"devices": 3}, "batch_size": 2, "data": {"source": "cached"}}
    )
    alone = pair.model_copy(update={"spmd": Knobs().spmd})
    cpu = torch.device("cpu")
    images, labels = next(iter(data.loader(pair, 4, 5)))
    assert (len(images), len(labels)) == (6, 6)
    assert len(next(iter(data.loader(_random(pair), 4, 5)))[0]) == 6
    images, labels = next(iter(data.repeated(pair, 4, 5, cpu)))
    one_images, one_labels = next(iter(data.repeated(alone, 4, 5, cpu)))
    assert torch.equal(images, torch.cat([one_images] * 3))
    assert torch.equal(labels, torch.cat([one_labels] * 3))


def _random(knobs: Knobs) -> Knobs:
    return Knobs.model_validate(knobs.model_dump() | {"data": {"source": "random"}})
