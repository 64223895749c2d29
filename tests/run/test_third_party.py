"""A backend of somebody else: found by its entry point, probed at arm's length."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent

import orjson
import pytest

from bench.backends import registry
from bench.backends.registry import BackendError, Prober
from tests.run.driver import Bench, install_entry_points

BROKEN = """\
import os, sys, time
from bench.backends.base import Backend, Probe

class Broken(Backend):
    def open(self, knobs, world):
        raise NotImplementedError

class Raises(Broken):
    name = "raises"
    def probe(self):
        print("noise on stdout")
        raise RuntimeError("the driver is too old")

class Dies(Broken):
    name = "dies"
    def probe(self):
        sys.stderr.write("assertion failed in the vendor's library\\n")
        sys.stderr.flush()
        os.abort()

class Hangs(Broken):
    name = "hangs"
    def probe(self):
        time.sleep(600)

class Stranger:
    pass
"""
ENTRY_POINTS = """\
[bench.backends]
raises = broken_backends:Raises
dies = broken_backends:Dies
hangs = broken_backends:Hangs
missing = no_such_module:Backend
stranger = broken_backends:Stranger
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_backends.py").write_text(BROKEN, encoding="utf-8")
    install_entry_points(tmp_path, "broken-backends", ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("broken")
class TestBrokenProbes:
    def test_one_that_raises_is_unavailable_with_its_last_words(self) -> None:
        probe = Prober().probe("raises")
        assert not probe.available
        assert probe.reason == (
            "its probe ended with exit code 1: RuntimeError: the driver is too old"
        )
        assert probe.remedy is not None

    def test_one_that_dies_is_unavailable_and_takes_nobody_along(self) -> None:
        probe = Prober().probe("dies")
        assert not probe.available
        assert (probe.reason or "").startswith("its probe ended with exit code -6: ")

    def test_one_that_hangs_is_given_up(self) -> None:
        probe = Prober(timeout_s=2).probe("hangs")
        assert not probe.available
        assert probe.reason == "its probe did not answer within 2 s"

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("missing", "(no_such_module:Backend) cannot be loaded: ModuleNotFoundError"),
            ("stranger", "(broken_backends:Stranger) is not a Backend"),
        ],
    )
    def test_one_that_cannot_be_loaded_is_unavailable(self, name: str, reason: str) -> None:
        probe = Prober().probe(name)
        assert not probe.available
        assert reason in (probe.reason or "")

    def test_each_is_asked_once(self, tmp_path: Path) -> None:
        prober = Prober()
        first = prober.probe("raises")
        (tmp_path / "broken_backends.py").write_text("", encoding="utf-8")
        assert prober.probe("raises") is first

    def test_an_unknown_name_is_told_with_the_nearest_known(self) -> None:
        with pytest.raises(BackendError, match=r"backend 'raise' is unknown.*Did you mean raises"):
            Prober().probe("raise")


def test_the_probe_child_sees_no_rank_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = """\
    import os
    from bench.backends.base import Backend, Probe

    class Nosy(Backend):
        name = "nosy"
        def probe(self):
            return Probe(backend="nosy", available=False, reason=os.environ.get("RANK", "no rank"))
        def open(self, knobs, world):
            raise NotImplementedError
    """
    (tmp_path / "nosy_backend.py").write_text(dedent(module), encoding="utf-8")
    install_entry_points(tmp_path, "nosy", "[bench.backends]\nnosy = nosy_backend:Nosy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    assert Prober().probe("nosy").reason == "no rank"


def test_children_import_the_same_package_and_what_the_user_put_on_the_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "one:two")
    first, *rest = registry.import_environment()["PYTHONPATH"].split(os.pathsep)
    assert (Path(first) / "bench/__init__.py").exists()
    assert rest == ["one", "two"]


def test_it_is_listed_beside_ours(bench: Bench) -> None:
    finished = bench("list", "backends", "--format", "json")
    assert finished.code == 0
    rows = {row["name"]: row for row in orjson.loads(finished.stdout)["rows"]}
    assert {"cpu", "cuda", "neuron", "toy", "xla"} <= set(rows)
    assert rows["toy"] == {
        "name": "toy",
        "available": True,
        "flavour": None,
        "device": "Toy One",
        "reason": None,
        "remedy": None,
    }
    for name, row in rows.items():
        if not row["available"]:
            assert row["reason"], name
            assert row["remedy"], name


def test_doctor_tells_of_it_alone_when_asked(bench: Bench) -> None:
    finished = bench("doctor", "--backend", "toy")
    assert finished.code == 0
    assert "toy: available: 1 x Toy One" in finished.stdout
    assert "cuda" not in finished.stdout


def test_which_software_goes_by_its_name_is_told_where_no_device_is_too(bench: Bench) -> None:
    module = """\
    from bench.backends.base import Backend, Probe

    class Stacked(Backend):
        name = "stacked"
        def probe(self):
            found = {"flavour": "native", "reason": "no device", "remedy": "plug one in"}
            return Probe(backend="stacked", available=False, **found)
        def open(self, knobs, world):
            raise NotImplementedError
    """
    folder = Path(bench.environment["PYTHONPATH"])
    (folder / "stacked_backend.py").write_text(dedent(module), encoding="utf-8")
    points = "[bench.backends]\nstacked = stacked_backend:Stacked\n"
    install_entry_points(folder, "stacked", points)
    assert "stacked (native): not available: no device" in (
        bench("doctor", "--backend", "stacked").stdout
    )
    listed = orjson.loads(bench("list", "backends", "--format", "json").stdout)["rows"]
    assert [row["flavour"] for row in listed if row["name"] == "stacked"] == ["native"]
    scenario = bench.scenario("told")
    (row,) = bench("run", scenario, "--backend", "stacked", "--format", "json").rows
    assert (row["outcome"], row["flavour"], row["device"]) == ("unavailable", "native", None)


def test_a_broken_one_leaves_the_list_whole(bench: Bench) -> None:
    install_entry_points(
        Path(bench.environment["PYTHONPATH"]), "gone", "[bench.backends]\ngone = nowhere:Backend\n"
    )
    finished = bench("list", "backends", "--format", "json")
    assert finished.code == 0, finished.stderr
    rows = {row["name"]: row for row in orjson.loads(finished.stdout)["rows"]}
    assert not rows["gone"]["available"]
    assert "cannot be loaded" in rows["gone"]["reason"]
    assert rows["toy"]["available"]


def test_a_broken_one_that_is_asked_for_is_an_unavailable_row(bench: Bench) -> None:
    install_entry_points(
        Path(bench.environment["PYTHONPATH"]), "gone", "[bench.backends]\ngone = nowhere:Backend\n"
    )
    finished = bench.run(bench.scenario("broken"), backend="gone")
    assert finished.code == 4, finished.stderr
    (row,) = finished.rows
    assert row["outcome"] == "unavailable"
    assert "ModuleNotFoundError: No module named 'nowhere'" in row["reason"]
    assert row["remedy"] is not None


def test_knobs_of_a_device_family_that_it_has_never_heard_of_are_refused(bench: Bench) -> None:
    finished = bench.run(bench.scenario("foreign"), "--set", "neuron.optlevel=3")
    assert finished.code == 0, finished.stderr
    (row,) = finished.rows
    assert row["outcome"] == "unsupported"
    assert row["reason"].startswith("neuron.optlevel=3: it is a setting of AWS's Neuron")
    assert "launch" not in finished.stderr.replace("to launch", "")
