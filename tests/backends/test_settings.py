"""The page of settings: it is what the code says, every knob is on it, and no cell is blank."""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from bench.backends import registry, settings
from bench.backends.base import Backend, Device, Probe, Refusal, World
from bench.backends.settings import Cell, Column, Setting, UnknownKnob
from bench.scenarios.identity import tagged_fields
from bench.scenarios.schema import Knobs, Strict

COMMITTED = Path(__file__).parents[2] / "docs" / "settings.md"
FOUND = list(settings.settings())


class Picky(Backend):
    """Refuses inductor, and two things only together."""

    name: ClassVar[str] = "picky"

    def probe(self) -> Probe:
        return Probe(backend=self.name, available=True)

    def open(self, knobs: Knobs, world: World) -> Device:
        raise NotImplementedError

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        found = []
        if knobs.compile == "inductor":
            found.append(Refusal(knob="compile", value="inductor", reason="it has no compiler"))
        if knobs.channels_last and knobs.threads is not None:
            found.append(Refusal(knob="threads", value=knobs.threads, reason="one or the other"))
        return found


PICKY = Column("picky", Picky(), Picky().probe())


@pytest.fixture(autouse=True)
def nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what an adapter would refuse here alone; the page does so itself."""
    for name in list(os.environ):
        if name.startswith(("NEURON", "XLA")):
            monkeypatch.delenv(name)


def table() -> list[list[str]]:
    """Return the cells of the first table, without its head."""
    lines = settings.page().split("## Refused together")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    return rows[2:]


def test_the_committed_page_is_what_the_code_gives() -> None:
    same = COMMITTED.read_text(encoding="utf-8") == settings.page()
    assert same, "make it anew: python -m bench.backends.settings > docs/settings.md"


def test_it_is_the_same_page_whatever_a_machine_has_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEURON_CC_FLAGS", "--model-type=transformer")
    assert COMMITTED.read_text(encoding="utf-8") == settings.page()
    assert os.environ["NEURON_CC_FLAGS"] == "--model-type=transformer"


def test_each_family_of_neuron_is_honoured_as_the_target_of_its_own() -> None:
    columns = {column.title: column for column in settings.columns()}
    targets = [setting for setting in FOUND if setting.knob == "neuron.target"]

    def honoured(family: str) -> set[str]:
        cells = {t.shown: settings.cell(t, columns[f"neuron, XLA, {family}"]) for t in targets}
        return {shown for shown, cell in cells.items() if cell.word == "honoured"}

    assert honoured("inf2") == {"inf2"}
    assert honoured("trn1") == {"trn1"}
    assert honoured("trn1n") == {"trn1", "trn1n"}
    assert honoured("trn2") == {"trn2"}


@pytest.mark.parametrize(
    ("setting", "title", "reason"),
    [
        (
            Setting("neuron.model_type", "unet-inference", "unet-inference"),
            "neuron, XLA, inf2",
            "it is for inference, and this case trains",
        ),
        (
            Setting("precision", "amp-fp16", "amp-fp16"),
            "neuron, native, trn2",
            "TorchNeuron has no kernel for torch's loss scaler, a part of which would run on the "
            "host at every update; amp-bf16 needs no scaling",
        ),
    ],
)
def test_what_is_refused_in_training_alone_is_shown_as_such(
    setting: Setting, title: str, reason: str
) -> None:
    columns = {column.title: column for column in settings.columns()}
    shown = settings.cell(setting, columns[title])
    assert shown == Cell("honoured with task=infer, else refused", reason)
    assert settings.cell(setting, columns["xla on PJRT CPU"]).word == "refused"
    apart = [pair for pair, _ in settings.together(FOUND, columns[title])]
    assert not [pair for pair in apart if "`task=train`" in pair and setting.shown in pair]


def test_what_is_honoured_in_inference_alone_is_put_together_with_others_there() -> None:
    class ForInference(Picky):
        """Refuses what scales a loss in training, and fp16 in one memory order."""

        def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
            if knobs.precision != "amp-fp16":
                return []
            if knobs.task == "train":
                return [Refusal(knob="precision", value="amp-fp16", reason="no scaler")]
            if knobs.channels_last:
                return [Refusal(knob="channels_last", value=True, reason="not in fp16")]
            return []

    column = Column("picky", ForInference(), PICKY.probe)
    assert [(pair, refusal.reason) for pair, refusal in settings.together(FOUND, column)] == [
        ("`precision=amp-fp16` with `channels_last=true`", "not in fp16")
    ]


def test_every_backend_of_ours_has_a_column() -> None:
    ours = {
        name for name in registry.names() if type(registry.get(name)).__module__.startswith("bench")
    }
    assert {column.backend.name for column in settings.columns()} == ours


def test_every_knob_of_the_schema_has_a_row() -> None:
    known = {name for name, _tag, _value in tagged_fields(Knobs())}
    assert {setting.knob for setting in FOUND} == known


def test_no_cell_is_blank_and_every_refusal_has_a_reason() -> None:
    width = 2 + len(settings.columns())
    for row in table():
        # The name of a knob stands beside its first value.
        knob_and_value, cells = row[: len(row) - width + 2], row[len(row) - width + 2 :]
        assert knob_and_value[-1].strip("`"), row
        assert len(cells) == width - 2
        for text in cells:
            word = text.partition(" (")[0]
            assert word in typing.get_args(settings.Word), row
            assert (word == "honoured") == ("(" not in text), row


@pytest.mark.parametrize("column", settings.columns(), ids=lambda column: column.title)
def test_the_defaults_are_refused_nowhere(column: Column) -> None:
    assert column.refusals(Knobs()) == []


def test_an_adapter_without_a_device_leaves_no_blank() -> None:
    nowhere = Column("nowhere", Picky(), None)
    assert settings.cell(FOUND[0], nowhere) == Cell(
        "not applicable", "this release runs nothing on picky"
    )


def test_all_values_of_a_knob_are_shown() -> None:
    shown = {setting.value for setting in FOUND if setting.knob == "compile"}
    assert shown == {"none", "inductor", "openxla", "neuron"}


def test_a_setting_is_refused_for_its_own_reason_or_for_the_setting_that_it_belongs_to() -> None:
    compiled = Setting("compile", "inductor", "inductor")
    mode = Setting("compile_mode", "max-autotune", "max-autotune")
    assert settings.cell(compiled, PICKY) == Cell("refused", "it has no compiler")
    assert settings.cell(mode, PICKY) == Cell(
        "not applicable", "it belongs to compile=inductor: it has no compiler"
    )
    assert settings.cell(Setting("threads", 2, "any number"), PICKY) == Cell("honoured")


def test_what_is_refused_only_together_is_found() -> None:
    assert [(pair, refusal.reason) for pair, refusal in settings.together(FOUND, PICKY)] == [
        ("`channels_last=true` with `threads=any number`", "one or the other")
    ]


def test_a_pair_that_follows_from_another_is_not_told_again() -> None:
    class NoAccumulation(Picky):
        """Refuses inductor beside accumulation, and so every mode of inductor."""

        def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
            both = knobs.compile == "inductor" and knobs.gradient_accumulation > 1
            return [Refusal(knob="compile", value="inductor", reason="no room")] if both else []

    column = Column("picky", NoAccumulation(), PICKY.probe)
    assert [pair for pair, _ in settings.together(FOUND, column)] == [
        "`compile=inductor` with `gradient_accumulation=2 or more`",
    ]


def test_no_two_columns_have_one_title() -> None:
    titles = [column.title for column in settings.columns()]
    assert len(titles) == len(set(titles))


def test_a_knob_that_the_page_cannot_set_is_named() -> None:
    class Odd(Strict):
        """A knob of a kind that tells no values."""

        label: str = ""

    with pytest.raises(UnknownKnob, match="label: name a value of it in _EXAMPLES"):
        list(settings.settings(Odd))


def test_a_value_that_belongs_to_another_knob_is_named() -> None:
    lonely = Setting("loader.batches_per_execution", 0, "0")
    with pytest.raises(UnknownKnob, match="batches_per_execution=0 means nothing alone"):
        settings.cell(lonely, PICKY)


def test_a_group_of_knobs_is_walked_into() -> None:
    class Inner(Strict):
        """A group."""

        kind: Literal["a", "b"] = "a"

    class Outer(Strict):
        """Holds it."""

        inner: Inner = Inner()

    assert [(s.knob, s.value) for s in settings.settings(Outer)] == [
        ("inner.kind", "a"),
        ("inner.kind", "b"),
    ]
