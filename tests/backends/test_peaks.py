"""Peaks: exactly the device that was asked for or none, dense figures, and a source with each."""

from __future__ import annotations

import importlib.resources
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bench.backends import peaks
from bench.backends.peaks import Part, PeaksError, Table, load

ROOT = Path(__file__).parents[2]
SHIPPED = Table.model_validate_json(peaks.SHIPPED.read_bytes())
TENSOR_CORES = [part for part in SHIPPED.parts if "tf32" in part.dense_flops_per_s]
MINE: dict[str, Any] = {
    "device": "My Part",
    "names": ["mine"],
    "dense_flops_per_s": {"bf16": 1e12},
    "source": {"title": "A datasheet", "date": "2026-01", "url": "https://example.org/mine"},
}


def written(folder: Path, *parts: dict[str, Any]) -> Path:
    path = folder / "my-peaks.json"
    path.write_text(json.dumps({"schema": 1, "parts": list(parts)}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "bf16", 989.5),
        ("NVIDIA H200", "fp8", 1979),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "tf32", 183),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NC_v2", "bf16", 95),
        ("NC_v3d", "bf16", 166.75),
        ("Trainium3 LNC=1", "bf16", 83.875),
        ("TPU v4", "bf16", 275),
        ("TPU v5 lite", "bf16", 197),
        ("TPU v5", "bf16", 459),
        ("TPU v6 lite", "bf16", 918),
    ],
)
def test_known_devices_have_their_dense_peaks(name: str, dtype: str, tflops: float) -> None:
    peak = load().find(name, dtype)
    assert peak is not None
    assert peak.flops_per_s == pytest.approx(tflops * 1e12)
    assert peak.dtype == dtype
    assert "http" in peak.source


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "NVIDIA H100",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM-64GB",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "nvidia h200",
        "AMD EPYC 9V74, 2 CPUs",
        "NC_v4",
    ],
)
def test_an_unknown_variant_has_no_peak_and_never_that_of_a_relative(name: str | None) -> None:
    assert load().find(name, "bf16") is None


def test_a_type_that_is_not_there_has_no_peak() -> None:
    assert load().find("TPU v4", "fp32") is None
    assert load().find("NVIDIA GeForce RTX 4090", "fp16") is None
    assert load().find("NVIDIA H200", "bf16+fp32") is None
    assert load().find("TPU v5", "int8") is None
    assert load().find("NVIDIA H200 NVL", "fp8") is None


@pytest.mark.parametrize("part", SHIPPED.parts, ids=lambda part: part.device)
def test_every_figure_has_a_title_a_date_and_an_address(part: Part) -> None:
    assert part.source.url.startswith("https://")
    assert part.source.date[:2] == "20"
    assert len(part.source.title) > 5


@pytest.mark.parametrize("part", TENSOR_CORES, ids=lambda part: part.device)
def test_no_figure_with_sparsity_slipped_in_beside_a_dense_one(part: Part) -> None:
    """Narrower types are faster by whole powers of two; one sparse figure would double a ratio."""
    rates = dict(part.dense_flops_per_s)
    bf16 = rates["bf16"]
    whole = part.device.startswith("AWS")  # where tf32 is as fast as bf16
    assert rates["tf32"] == pytest.approx(bf16 if whole else bf16 / 2, rel=0.03)
    assert rates.get("fp16", bf16) == bf16
    wide = 2 * bf16 if "Inferentia2" not in part.device else bf16
    for name in ("fp8", "int8"):
        assert rates.get(name, wide) == pytest.approx(wide, rel=0.03)
    assert rates["fp32"] <= rates["tf32"]


def test_a_users_own_table_comes_first_and_the_shipped_one_stays(tmp_path: Path) -> None:
    hot = MINE | {"names": ["NVIDIA H200", "mine"], "device": "An overclocked H200"}
    mine = load(written(tmp_path, hot))
    found = mine.find("NVIDIA H200", "bf16")
    assert found is not None
    assert (found.device, found.flops_per_s) == ("An overclocked H200", 1e12)
    assert found.source == "A datasheet, 2026-01, https://example.org/mine"
    # What hides a part hides it whole: its other types are not mixed in from somewhere else.
    assert mine.find("NVIDIA H200", "tf32") is None
    assert mine.find("NVIDIA L4", "bf16") == load().find("NVIDIA L4", "bf16")


def test_the_environment_names_the_users_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(peaks.VARIABLE, raising=False)
    assert peaks.users() is None
    path = written(tmp_path, MINE)
    monkeypatch.setenv(peaks.VARIABLE, str(path))
    assert peaks.users() == path
    found = load(peaks.users()).find("mine", "bf16")
    assert found is not None
    assert found.flops_per_s == 1e12
    monkeypatch.setenv(peaks.VARIABLE, "")
    assert peaks.users() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense_flops_per_s": {"bf16": -1.0}}, r"parts\.0\.dense_flops_per_s\.bf16: .*greater"),
        ({"dense_flops_per_s": {"bfloat16": 1e12}}, r"dense_flops_per_s\.bfloat16.*'fp64'"),
        ({"dense_flops_per_s": {}}, r"parts\.0\.dense_flops_per_s: .*at least 1"),
        ({"source": None}, r"parts\.0\.source"),
        ({"peak": 3}, r"parts\.0\.peak"),
        ({"names": ["mine", "mine"]}, "named more than once: mine"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PeaksError, match=f"my-peaks.json, .*{message}"):
        load(written(tmp_path, MINE | change))


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PeaksError, match=r"no-such\.json: No such file"):
        load(tmp_path / "no-such.json")


def test_the_table_is_a_resource_of_the_package_and_goes_into_the_wheel() -> None:
    resource = importlib.resources.files("bench.backends").joinpath("peaks.json")
    assert Table.model_validate_json(resource.read_bytes()) == SHIPPED
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["package-data"]["bench.backends"] == ["peaks.json"]
