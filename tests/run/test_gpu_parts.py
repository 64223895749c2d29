"""The check for whoever has a GPU: what it refuses to be asked, and what a failed part leaves."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from bench.backends.base import Probe
from bench.scenarios.errors import ScenarioError
from tests.run.test_gpu_check import a_row

HERE = Probe(
    backend="cpu", available=True, device_model="Test CPU", device_count=1, facts={"cxx": "g++"}
)


class TestRequest:
    def test_each_scenario_runs_the_cases_of_its_own(
        self, benchmarks: Callable[[str], ModuleType], check_asked: Callable[..., Any]
    ) -> None:
        request = benchmarks("gpu_request")
        check = check_asked(rungs=["baseline", "compiled, fused", "fp8", "tf32"])
        assert request.cases_asked(check, "vit-ladder") == ["baseline", "fp8"]
        assert request.cases_asked(check, str(request.RUNGS)) == ["compiled, fused", "tf32"]
        assert request.left_out(check, []) == {}

    def test_a_scenario_of_which_none_is_named_is_not_run(
        self, benchmarks: Callable[[str], ModuleType], check_asked: Callable[..., Any]
    ) -> None:
        left_out = benchmarks("gpu_request").left_out
        ladder = {"ladder": "no --rung names a case of vit-ladder"}
        assert left_out(check_asked(rungs=["compiled"]), []) == ladder
        assert left_out(check_asked(rungs=["baseline"]), []) == {
            "rungs": "no --rung names a case of gpu_rungs"
        }
        assert left_out(check_asked(), []) == {}
        assert left_out(check_asked(rungs=["compiled"]), ["tests"]) == {"tests": "--skip"} | ladder

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"rungs": ["compiled", "compield"]}, r"--rung compield: .*did you mean compiled\?"),
            ({"settings": ["batch_size=4"]}, r"--set batch_size: .*; use --batch-size"),
            ({"settings": ["measure={launches: 2}"]}, r"--set measure\.launches: .*--launches"),
            ({"settings": ["image_size=64"]}, r"--set image_size: .*; use --model"),
            ({"settings": ["seed=7"]}, r"--set seed: timm's loop.*or that part with --skip beside"),
            ({"settings": ["threads=many"]}, r"--set threads: "),
            ({"settings": ["threads"]}, r"--set: 'threads' is not of the form"),
        ],
    )
    def test_what_cannot_be_honoured_is_refused_before_anything_runs(
        self,
        benchmarks: Callable[[str], ModuleType],
        check_asked: Callable[..., Any],
        changes: dict[str, Any],
        message: str,
    ) -> None:
        request = benchmarks("gpu_request")
        with pytest.raises(ScenarioError, match=message):
            request.refuse(check_asked(**changes), request.PARTS)

    def test_the_rest_is_not(
        self, benchmarks: Callable[[str], ModuleType], check_asked: Callable[..., Any]
    ) -> None:
        request = benchmarks("gpu_request")
        request.refuse(check_asked(), request.PARTS)
        check = check_asked(rungs=["compiled"], settings=["threads=1", "measure.health=false"])
        request.refuse(check, request.PARTS)
        request.refuse(check_asked(settings=["seed=7"]), ["ladder", "rungs"])

    def test_a_rung_that_is_none_ends_the_command_with_2(
        self,
        benchmarks: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        results = tmp_path / "recorded"
        command = ["gpu_check.py", "--rung", "typo", "--results", str(results)]
        monkeypatch.setattr("sys.argv", command)
        assert benchmarks("gpu_check").main() == 2
        assert "--rung typo: is a case of neither scenario" in capsys.readouterr().err
        assert not results.exists()


class TestSummary:
    @pytest.mark.parametrize(
        ("skipped", "code", "last"),
        [
            ([], 0, "1 of 1 bounds hold"),
            (["--skip", "tests"], 1, "1 of 1 bounds hold, and 1 of 4 parts were not run"),
        ],
    )
    def test_what_was_not_run_is_named_and_is_no_success(
        self,
        benchmarks: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        skipped: list[str],
        code: int,
        last: str,
    ) -> None:
        check, bounds = benchmarks("gpu_check"), benchmarks("gpu_bounds")
        held = bounds.Finding("something holds", True, "by these figures")
        monkeypatch.setattr(check.Prober, "probe", lambda *_: HERE)
        monkeypatch.setattr(check, "run", lambda *given: given[-1].told.append(held))
        command = ["gpu_check.py", "--results", str(tmp_path / "recorded"), *skipped]
        monkeypatch.setattr("sys.argv", command)
        assert check.main() == code
        [file] = (tmp_path / "recorded").glob("gpu-check-*.txt")
        lines = file.read_text(encoding="utf-8").splitlines()
        assert lines[-1] == last
        assert ("not run tests: --skip" in lines) is bool(skipped)

    def test_its_head_tells_when_where_and_by_what(
        self,
        benchmarks: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        check = benchmarks("gpu_check")
        monkeypatch.setattr(check.Prober, "probe", lambda *_: HERE)
        monkeypatch.setattr(check, "run", lambda *_: None)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        command = ["gpu_check.py", "--pairs", "7", "--results", str(tmp_path / "recorded")]
        monkeypatch.setattr("sys.argv", command)
        before = dt.datetime.now(dt.UTC).replace(microsecond=0)
        assert check.main() == 0
        [file] = (tmp_path / "recorded").glob("gpu-check-*.txt")
        began = dt.datetime.strptime(file.stem, "gpu-check-%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        assert before <= began <= dt.datetime.now(dt.UTC)
        first, device, options, versions, variables, *_ = file.read_text("utf-8").splitlines()
        assert first.startswith(f"gpu_check.py of {began:%Y-%m-%d %H:%M:%S} UTC, commit ")
        assert device == "Test CPU, vit-base, batch 256"
        assert options == "options: --pairs 7 --results <path>/recorded"
        assert f"python {platform.python_version()}" in versions
        assert "OMP_NUM_THREADS=3" in variables

    @pytest.mark.parametrize(
        ("ended_by", "code"), [(KeyboardInterrupt, 130), (ZeroDivisionError, None)]
    )
    def test_whatever_ends_it_leaves_what_was_found(
        self,
        benchmarks: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        ended_by: type[BaseException],
        code: int | None,
    ) -> None:
        check, bounds = benchmarks("gpu_check"), benchmarks("gpu_bounds")

        def part(name: str, *_: Any) -> Iterator[Any]:
            yield bounds.Finding(f"{name} holds", True, "by these figures")
            if name == "ladder":
                raise ended_by

        monkeypatch.setattr(check.Prober, "probe", lambda *_: HERE)
        monkeypatch.setattr(check, "_part", part)
        monkeypatch.setattr("sys.argv", ["gpu_check.py", "--results", str(tmp_path / "recorded")])
        if code is None:
            with pytest.raises(ended_by):
                check.main()
        else:
            assert check.main() == code
        [file] = (tmp_path / "recorded").glob("gpu-check-*.txt")
        assert file.read_text(encoding="utf-8").splitlines()[-6:] == [
            "holds   tests holds: by these figures",
            "holds   ladder holds: by these figures",
            f"FAILED  ladder: it was ended by {ended_by.__name__}",
            "not run beside: ladder ended all",
            "not run rungs: ladder ended all",
            "2 of 2 bounds hold, and 2 of 4 parts were not run",
        ]

    def test_what_a_part_found_before_it_failed_stays_and_the_others_run(
        self,
        benchmarks: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        check_asked: Callable[..., Any],
    ) -> None:
        check, parts, sides = benchmarks("gpu_check"), benchmarks("gpu_parts"), benchmarks("sides")
        row = a_row(mfu=0.1, energy_j_per_sample=None, loss_gap=None)
        ran = benchmarks("gpu_bounds").Ran([row], 0)

        def broken(*_: Any) -> list[str]:
            raise sides.SideFailed("profile_steps.py ended with exit code 1")

        monkeypatch.setattr(parts, "_run", lambda *_: ran)
        monkeypatch.setattr(parts, "_profile", broken)
        found = check.Found()
        check.run(check_asked(), HERE, ["rungs", "ladder"], found)
        assert found.failed == ["rungs: profile_steps.py ended with exit code 1"]
        bounds = [str(item) for item in found.findings]
        assert [bound.split(",")[0].split(":")[0] for bound in bounds] == [
            "holds   gpu-rungs",
            "MISSED  amp-bf16",
            "holds   vit-ladder",
        ]
        assert sum(str(item).startswith("compiled ") for item in found.told) == 2


class TestExpected:
    H200: ClassVar[dict[str, Any]] = {
        "capability": [9, 0],
        "nccl": "2",
        "triton": True,
        "cc": "gcc",
        "alike": True,
        "torchao": True,
        "tf32_forbidden": False,
    }

    @pytest.mark.parametrize("missing", ["torchao", "triton", "cc"])
    def test_a_library_that_is_missing_is_not_what_such_a_device_refuses(
        self, benchmarks: Callable[[str], ModuleType], check_asked: Callable[..., Any], missing: str
    ) -> None:
        request = benchmarks("gpu_request")
        gpu = HERE.model_copy(
            update={"backend": "cuda", "facts": self.H200 | {missing: None}, "flavour": "cuda"}
        )
        assert request.beyond(check_asked(backend="cuda"), gpu, "rungs") == set()
        older = gpu.model_copy(update={"facts": self.H200 | {"capability": [8, 0]}})
        assert request.beyond(check_asked(backend="cuda"), older, "rungs") == {
            "fp8-tensorwise",
            "fp8-rowwise",
        }

    def test_of_the_ladder_the_rungs_of_other_devices_are(
        self, benchmarks: Callable[[str], ModuleType], check_asked: Callable[..., Any]
    ) -> None:
        gpu = HERE.model_copy(update={"backend": "cuda", "facts": self.H200, "flavour": "cuda"})
        found = benchmarks("gpu_request").beyond(check_asked(backend="cuda"), gpu, "ladder")
        assert {"steps-per-graph", "compiler-bf16", "fp8"} <= found
        assert not found & {"baseline", "batch-size", "autocast"}

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ([], None),
            (["measure.health=false"], "measure.health=false"),
            (["task=infer", "optimizer=null"], "task=infer"),
        ],
    )
    def test_learning_is_asked_of_rows_that_train_unless_the_user_says_no(
        self,
        benchmarks: Callable[[str], ModuleType],
        check_asked: Callable[..., Any],
        settings: list[str],
        told: str | None,
    ) -> None:
        check = check_asked(settings=settings)
        assert benchmarks("gpu_request").unwatched(check, "ladder") == told
