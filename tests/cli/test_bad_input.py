"""A user's mistake is one clear message and exit code 2, and nothing is written or started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.builders import a_record
from tests.run.driver import Bench

TOY = ("--backend", "toy")


def refuses(bench: Bench, *arguments: str) -> str:
    """Run the command and return its one message."""
    finished = bench(*arguments)
    assert finished.code == 2, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    (message,) = finished.complaints
    assert finished.stderr.strip() == message
    assert not bench.results.exists() or bench.files() == []
    return message.removeprefix("bench: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quik"], r"'quik' is no shipped scenario; did you mean quick\?"),
        (["nowhere.yaml"], r"nowhere\.yaml: there is no such file"),
        (["nowhere.json"], r"nowhere\.json: cannot be repeated: no record"),
        (["mine.yaml", "--set", "batchsize=3"], r"unknown knob batchsize; did you mean batch_size"),
        (["mine.yaml", "--set", "task=fly"], r"--set task: 'fly' is not one of train, infer"),
        (["mine.yaml", "--set", "batch_size=many"], r"'many' must be a whole number"),
        (["mine.yaml", "--set", "batch_size"], r"not of the form key=value"),
        (["mine.yaml", "--sweep", "nope=1,2"], r"--sweep nope: unknown knob nope"),
        (["mine.yaml", "--launches", "0"], r"launches: 0 must be greater than or equal to 1"),
        (["mine.yaml", "--budget", "-1"], r"budget_s: -1.0 must be greater than 0"),
        (["mine.yaml", "--processes", "0"], r"processes: 0 must be greater than or equal to 1"),
        (
            ["mine.yaml", "--set", "data.pool=null", "--set", "data.source=folder:/no/such"],
            r"there is no folder /no/such.*one sub-folder of images per class",
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(
    bench: Bench, arguments: list[str], message: str
) -> None:
    bench.scenario("mine")
    assert re.search(message, refuses(bench, "run", *arguments, *TOY))


def test_a_table_of_peaks_that_cannot_be_read_is_named_before_anything_runs(bench: Bench) -> None:
    bench.environment["BENCH_PEAKS"] = "no-such-peaks.json"
    said = refuses(bench, "run", bench.scenario("mine"), *TOY)
    assert said == "no-such-peaks.json: No such file or directory"


def test_an_unknown_backend_is_told_with_the_known_ones(bench: Bench) -> None:
    said = refuses(bench, "run", bench.scenario("mine"), "--backend", "cudaa")
    assert said == (
        "backend 'cudaa' is unknown; known are cpu, cuda, neuron, toy, xla. Did you mean cuda?"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n\tmodel: y\n", r"bad\.yaml: line 3, column 1: a tab cannot stand here"),
        ("name: x\nextends: bad.yaml\n", r"extends: goes in a circle: bad\.yaml -> bad\.yaml"),
        (
            "name: x\nmodel: !!python/object/apply:os.system ['touch owned']\n",
            r"the tag !!python/object/apply:os\.system is refused",
        ),
        ("name: x\nbatch_size: '8'\n", r"bad\.yaml.*batch_size"),
        ("name: x\nmodel: [\n", r"bad\.yaml: line"),
    ],
)
def test_a_file_that_is_no_scenario_is_refused(bench: Bench, text: str, message: str) -> None:
    (bench.cwd / "bad.yaml").write_text("schema: 1\n" + text, encoding="utf-8")
    assert re.search(message, refuses(bench, "run", "bad.yaml", *TOY))
    assert not (bench.cwd / "owned").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "kind": "run"', r"not JSON, or cut short"),
        ('{"shopping": ["milk"]}', r"not a record of this program"),
        ('{"schema": 99, "kind": "run"}', r"written by a newer version"),
        ('{"schema": 1, "kind": "run"}', r"not a valid record"),
    ],
)
def test_a_record_that_cannot_be_read_cannot_be_repeated(
    bench: Bench, text: str, message: str
) -> None:
    (bench.cwd / "old.json").write_text(text, encoding="utf-8")
    assert re.search(message, refuses(bench, "run", "old.json", *TOY))


def test_a_record_is_one_case_and_cannot_be_swept(bench: Bench) -> None:
    (bench.cwd / "old.json").write_text(a_record().model_dump_json(by_alias=True), encoding="utf-8")
    said = refuses(bench, "run", "old.json", *TOY, "--sweep", "batch_size=1,2")
    assert "a record is one case and cannot be swept" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "nowhere"], r"nowhere does not exist"),
        (["table", "--with", "nowhere"], r"nowhere does not exist.*`published` for those shipped"),
        (["table", "--where", "speed=1"], r"--where: no column or knob 'speed'"),
        (["table", "--where", "launches=two"], r"launches is a number, and 'two' is none"),
        (["table", "--columns", "speed"], r"--columns: no column or knob 'speed'"),
        (["show", "nothing"], r"nothing: is neither a scenario nor a record"),
        (["doctor", "--backend", "cudaa"], r"backend 'cudaa' is unknown"),
    ],
)
def test_other_commands_refuse_as_clearly(bench: Bench, arguments: list[str], message: str) -> None:
    bench.results.mkdir()
    assert re.search(message, refuses(bench, *arguments))


def test_a_table_before_the_first_run_says_how_to_get_one(bench: Bench) -> None:
    said = refuses(bench, "table")
    assert said.startswith("there is no folder results here: `bench run quick` makes it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "quick", "--launches", "3", "--precision-target", "2"],
            "choose one of --launches and --precision-target",
        ),
        (["run", "quick", "--launches", "three"], "--launches"),
        (["run", "quick", "--format", "xml"], "'xml' is not one of"),
        (["run"], "Missing argument"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_a_command_line_that_is_none_is_a_usage_error(
    bench: Bench, arguments: list[str], message: str
) -> None:
    finished = bench(*arguments)
    assert finished.code == 2
    assert finished.stdout == ""
    assert finished.stderr.count("Error") == 1
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not bench.results.exists()


class TestResultsFolder:
    @pytest.mark.parametrize("folder", ["taken", "taken/below"])
    def test_a_file_in_its_way_is_named(self, bench: Bench, folder: str) -> None:
        (bench.cwd / "taken").write_text("mine", encoding="utf-8")
        said = refuses(bench, "run", bench.scenario("mine"), *TOY, "--results", folder)
        assert said.startswith(f"cannot write to the results folder {folder}: Not a directory")
        assert "choose another folder with --results" in said
        assert (bench.cwd / "taken").read_text(encoding="utf-8") == "mine"

    @pytest.mark.parametrize(
        ("options", "fill", "message"),
        [
            ("size=64k,ro", "true", "Read-only file system"),
            (
                "size=64k",
                "dd if=/dev/zero of=ballast bs=1k count=128 2>/dev/null || true",
                "the disk is full: free some space",
            ),
        ],
    )
    def test_a_file_system_that_takes_nothing_is_said_before_anything_is_measured(
        self, bench: Bench, options: str, fill: str, message: str
    ) -> None:
        folder = bench.cwd / "mounted"
        folder.mkdir()
        scenario = bench.scenario("mine")
        own_mounts(folder)
        shell = f'mount -t tmpfs -o {options} tmpfs mounted && (cd mounted && {fill}) && exec "$@"'
        finished = bench.start(
            "run",
            scenario,
            *TOY,
            "--results",
            "mounted",
            command=("-m", "bench"),
            before=("unshare", "--map-root-user", "--mount", "sh", "-c", shell, "sh"),
        ).wait()
        assert finished.code == 2, finished.stderr
        (said,) = finished.complaints
        assert message in said
        assert ": launch " not in finished.stderr


def own_mounts(folder: Path) -> None:
    """Skip where this user may not mount anything, not even for itself."""
    trial = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "x", str(folder)]
    if shutil.which("unshare") is None or subprocess.run(trial, check=False).returncode:
        pytest.skip("no mounts of our own here")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("vit_tiny_patch16_22", r"has no such model; did you mean vit_tiny_patch16_224"),
        ("tiny:nobody", r"tiny has no nobody"),
        ("nowhere:build", r"there is no module nowhere in the working directory"),
    ],
)
def test_a_model_that_does_not_exist_is_told_once_and_leaves_no_record(
    bench: Bench, model: str, message: str
) -> None:
    finished = bench("run", bench.scenario("mine"), *TOY, "--set", f"model={model}")
    assert finished.code == 2
    assert finished.stdout == ""
    (said,) = finished.complaints
    assert re.search(message, said)
    assert len(re.findall(message, finished.stderr)) == 1
    assert "Traceback" not in finished.stderr
    assert bench.files() == []
    assert bench.processes() == []


class TestStrangersAmongTheRecords:
    @pytest.fixture
    def folder(self, bench: Bench) -> Path:
        """Return a folder of records with one good one, and four files that are none."""
        folder = bench.results / "runs/2026/11/20"
        folder.mkdir(parents=True)
        good = a_record(id="good").model_dump_json(by_alias=True)
        (folder / "20261120T080000Z-good.json").write_text(good, encoding="utf-8")
        (folder / "cut.json").write_text(good[: len(good) // 2], encoding="utf-8")
        (folder / "foreign.json").write_text('{"name": "left-pad"}', encoding="utf-8")
        (folder / "binary.json").write_bytes(bytes(range(256)))
        (folder / "empty.json").touch()
        return folder

    @pytest.mark.parametrize("format", ["rich", "json", "markdown", "csv"])
    def test_a_name_that_is_no_utf8_is_printed_as_far_as_it_can_be(
        self,
        bench: Bench,
        folder: Path,
        format: str,  # noqa: A002
    ) -> None:
        odd = Path(os.fsdecode(os.fsencode(folder) + b"/odd-\xff.json"))
        (folder / "cut.json").rename(odd)
        finished = bench("table", "--format", format)
        assert finished.code == 0, finished.stderr
        told = finished.stderr if format == "csv" else finished.stdout
        assert "odd-\N{REPLACEMENT CHARACTER}.json" in told
        assert "Traceback" not in finished.stderr

    def test_the_table_shows_the_others_and_names_what_it_left_aside(
        self, bench: Bench, folder: Path
    ) -> None:
        before = bench.files()
        finished = bench("table", "--format", "json")
        assert finished.code == 0
        assert [row["case"] for row in finished.rows] == ["default"]
        told = finished.stdout + finished.stderr
        for name in ("cut.json", "foreign.json", "binary.json", "empty.json"):
            assert name in told
        assert "Traceback" not in finished.stderr
        assert bench.files() == before

    @pytest.mark.torch
    def test_resume_works_beside_them(self, bench: Bench, folder: Path) -> None:
        before = bench.files()
        finished = bench.run(bench.scenario("mine"), "--resume")
        assert finished.code == 0, finished.stderr
        assert len(bench.files()) == len(before) + 1
