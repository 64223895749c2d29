"""Precompiling for Neuron: which cases note their graphs where, and what a failed graph leaves."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.backends.base import CompileFailed, Precompilation, Probe, Refusal
from bench.backends.neuron_precompile import NOTE_ONLY, compile_noted, of_case
from bench.scenarios.schema import Knobs

GIB = 2**30
CORES = Probe(backend="neuron", available=True, device_count=4, flavour="xla")
WORDS = ["[NCC_E001] a product of four axes", "please open a ticket"]


def plan(memory: int = 512 * GIB, shown: str = "", **knobs: Any) -> Precompilation:
    variables = {"NEURON_RT_VISIBLE_CORES": shown} if shown else {}
    found = of_case(Knobs.model_validate(knobs), CORES, variables, memory)
    assert isinstance(found, Precompilation)
    return found


class TestPlan:
    def test_a_plain_case_notes_its_graphs_on_a_core_of_its_own(self) -> None:
        found = plan()
        assert found.notes
        assert found.devices == ("0", "1", "2", "3")
        assert found.shown_by == "NEURON_RT_VISIBLE_CORES"
        assert found.variables == {
            "NEURON_EXTRACT_GRAPHS_ONLY": "1",
            "NEURON_FALL_BACK_TO_NULL_NEFF": "1",
        }

    def test_cores_that_the_user_does_not_show_are_not_used(self) -> None:
        assert plan(shown="2-3,7").devices == ("2", "3", "7")

    @pytest.mark.parametrize(
        ("lnc", "devices"), [(None, ("0", "1", "2", "3")), (2, ("0", "1", "2", "3")), (1, None)]
    )
    def test_a_case_that_numbers_the_cores_anew_has_no_other_beside_it(
        self, lnc: int | None, devices: tuple[str, ...] | None
    ) -> None:
        facts = {"family": "trn2", "physical_cores": 8, "cores_shown": None}
        trn2 = CORES.model_copy(update={"facts": facts})
        found = of_case(Knobs.model_validate({"neuron": {"lnc": lnc}}), trn2, {}, GIB)
        assert isinstance(found, Precompilation)
        assert (found.devices, found.alone) == (devices, devices is None)
        assert found.notes
        assert found.variables == NOTE_ONLY

    @pytest.mark.parametrize(("gib", "compilers"), [(16, 1), (64, 1), (65, 2), (512, 8)])
    def test_a_compiler_needs_64_gib(self, gib: int, compilers: int) -> None:
        assert plan(memory=gib * GIB).compilers == compilers

    @pytest.mark.parametrize("knobs", [{"processes": 2}, {"engine": "ddp"}])
    def test_ranks_that_exchange_gradients_compute_them_and_run_alone(
        self, knobs: dict[str, Any]
    ) -> None:
        found = plan(**knobs)
        assert (found.alone, found.notes, found.variables) == (True, False, {})

    def test_the_simulation_has_no_cache_to_fill(self) -> None:
        simulated = CORES.model_copy(update={"simulated": True})
        found = of_case(Knobs(), simulated, {})
        assert isinstance(found, Refusal)
        assert "cannot load a compile cache" in found.reason


class Cache:
    """A compile cache as libneuronxla leaves it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def note(self, name: str) -> Path:
        graph = self.root / "neuronxcc-2.24.8799.0+6f62ff7c" / f"MODULE_{name}+e30acd3a"
        graph.mkdir(parents=True)
        (graph / "model.hlo_module.pb").touch()
        return graph

    def compiler(self, *bad: str, marks_failures_too: bool = False) -> Any:
        """Return one that compiles all graphs but those whose name has one of these words."""
        self.calls: list[tuple[Path, int]] = []

        def run(scratch: Path, cache: Path, jobs: int) -> None:
            assert scratch.is_dir()
            self.calls.append((cache, jobs))
            for graph in cache.glob("neuronxcc-*/MODULE_*"):
                failed = any(word in graph.name for word in bad)
                if failed:
                    (graph / "model.log").write_text("\n".join(["", *WORDS, ""]))
                if not failed or marks_failures_too:
                    (graph / "model.neff").touch()

        return run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    folder = tmp_path / "cache"
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", str(folder))
    return Cache(folder)


class TestCompile:
    def test_all_that_was_noted_is_compiled_and_counted(self, cache: Cache) -> None:
        for name in ("first", "second", "third"):
            cache.note(name)
        assert compile_noted(2, cache.compiler()) == 3
        assert cache.calls == [(cache.root, 2)]

    @pytest.mark.parametrize("marks_failures_too", [False, True])
    def test_a_graph_that_cannot_be_is_told_with_the_compilers_last_lines(
        self, cache: Cache, marks_failures_too: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Older releases leave an empty model.neff beside the log of a failure."""
        for name in ("first", "second", "third"):
            cache.note(name)
        run = cache.compiler("second", marks_failures_too=marks_failures_too)
        with pytest.raises(CompileFailed) as raised:
            compile_noted(1, run)
        assert str(raised.value) == (
            "1 of 3 graphs cannot be compiled by neuronx-cc: please open a ticket"
        )
        printed = capsys.readouterr().out.splitlines()
        assert printed == ["MODULE_second+e30acd3a:", *WORDS]

    def test_a_graph_that_was_left_lying_is_no_verdict_of_the_compiler(self, cache: Cache) -> None:
        """neuronx-cc leaves nothing behind when the kernel kills it."""
        cache.note("first")
        cache.note("second")
        with pytest.raises(RuntimeError, match=r"2 of 2 graphs are not compiled, .* no reason"):
            compile_noted(1, lambda *_: None)

    def test_nor_is_the_word_that_it_was_killed(
        self, cache: Cache, capsys: pytest.CaptureFixture[str]
    ) -> None:
        killed = "[F137] neuronx-cc was forcibly killed"
        graph = cache.note("first")
        with pytest.raises(RuntimeError, match="1 of 1 graphs are not compiled"):
            compile_noted(1, lambda *_: (graph / "model.log").write_text(f"{killed}\n"))
        assert capsys.readouterr().out.splitlines() == ["MODULE_first+e30acd3a:", killed]

    def test_a_graph_that_is_given_up_is_told_beside_one_that_was_left_lying(
        self, cache: Cache
    ) -> None:
        given_up, _ = cache.note("first"), cache.note("second")
        with pytest.raises(CompileFailed, match=r"1 of 2 graphs cannot .*: please open a ticket"):
            compile_noted(1, lambda *_: (given_up / "model.log").write_text("\n".join(WORDS)))

    def test_a_run_that_noted_nothing_is_no_verdict_either(self, cache: Cache) -> None:
        (cache.root / "laid-out-otherwise").mkdir(parents=True)
        with pytest.raises(RuntimeError, match="NEURON_EXTRACT_GRAPHS_ONLY"):
            compile_noted(1, cache.compiler())

    def test_libneuronxla_is_given_a_scratch_folder_of_its_own_and_the_cases_cache(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph = cache.note("first")
        calls: list[tuple[Any, ...]] = []

        class CacheUrl:
            @staticmethod
            def get_cache_url(folder: str) -> str:
                return f"url of {folder}"

        def parallel_compile(scratch: str, url: str, jobs: int) -> None:
            calls.append((Path(scratch).is_dir(), url, jobs))
            (graph / "model.neff").touch()

        for name, content in (
            ("libneuronxla", {}),
            ("libneuronxla.neuron_cc_cache", {"CacheUrl": CacheUrl}),
            ("libneuronxla.neuron_parallel_compile", {"parallel_compile": parallel_compile}),
        ):
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        assert compile_noted(5) == 1
        assert calls == [(True, f"url of {cache.root}", 5)]


def test_what_only_notes_is_never_a_part_of_a_launchs_environment() -> None:
    from bench.backends.neuron import NeuronBackend

    probe = CORES.model_copy(update={"facts": {"pjrt": "NEURON", "family": "inf2"}})
    chosen = NeuronBackend().environment(Knobs(), probe)
    assert not NOTE_ONLY.keys() & chosen.keys()
