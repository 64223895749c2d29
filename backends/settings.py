"""The page of settings: what every backend does with every knob, asked of its own `refusals`.

    python -m bench.backends.settings > docs/settings.md

The backends come from the registry and the knobs from the schema, so that neither can be forgotten.
A knob is put to each device that an adapter describes (`Backend.devices`). Torch-free, and it asks
no machine: the page is the same wherever it is made.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from bench.backends import families, registry
from bench.backends.base import Backend, Probe, Refusal
from bench.scenarios.schema import Knobs

_EXAMPLES: Mapping[str, tuple[JsonValue, ...]] = {
    "model": ("vit_base_patch16_224", "mymodule:build"),
    "model_kwargs": ({"depth": 2},),
    "data.source": ("random", "cached", "device", "jpeg", "folder:PATH"),
    "accelerate.config": ("FILE",),
    "zero.config": ("FILE",),
    "zero.nvme_path": ("FOLDER",),
}
"""Values of knobs that take text or a mapping; of all others the schema tells the values."""
_NEEDS: Mapping[str, Mapping[str, JsonValue]] = {
    "compile_mode": {"compile": "inductor"},
    "data.images": {"data.source": "jpeg"},
    "data.pool": {"data.source": "cached"},
    "fsdp.reshard_after_forward": {"engine": "fsdp"},
    "fsdp.offload": {"engine": "fsdp"},
    "accelerate.config": {"engine": "accelerate"},
    "zero.config": {"engine": "deepspeed"},
    "spmd.devices": {"engine": "spmd"},
    "zero.stage": {"engine": "deepspeed"},
    "zero.offload_optimizer": {"engine": "deepspeed"},
    "zero.offload_optimizer=nvme": {"engine": "deepspeed", "zero.stage": 3},
    "zero.offload_param": {"engine": "deepspeed", "zero.stage": 3},
    "zero.nvme_path": {
        "engine": "deepspeed",
        "zero.stage": 3,
        "zero.offload_optimizer": "nvme",
    },
    "data.prefetch": {"data.workers": 2},
    "momentum": {"optimizer": "sgd"},
    "neuron.auto_cast_type": {"neuron.auto_cast": "matmult"},
    "nodes": {"processes": 2},
    "precision=fp8-tensorwise": {"compile": "inductor"},
    "precision=fp8-rowwise": {"compile": "inductor"},
}
"""What a knob, or one value of it, has no meaning without."""
Word = Literal["honoured", "honoured with task=infer, else refused", "refused", "not applicable"]
"""What becomes of a setting."""
_INFERENCE_ALONE: Final = "honoured with task=infer, else refused"
_HEAD = """\
# Settings

What each backend does with each knob. Made from the code, by

    python -m bench.backends.settings > docs/settings.md

and a test holds the page against the code. **honoured**: the code hands it to what acts on it.
**refused**: the case becomes an `unsupported` row with the reason whose number stands there;
nothing is ignored or replaced. Cases train, unless a cell says otherwise. **not applicable**: the
knob belongs to another setting, which is refused here.

Whether what is honoured has acted the audit looks at, for most knobs: precision, compilation,
optimizer, engine, sizes, batches and graphs are read back or counted, and `bench show` has every
check of a record. Nothing looks at queues and transfers (`data.workers`, `data.prefetch`,
`data.pin_memory`, `loader.prefetch`, `loader.device_prefetch`, `loader.transfer_threads`). Of the
settings under `neuron.` the record holds what the environment said once everything was imported;
only the casts are looked for in what was computed. What has never run on its device is named in
[neuron.md](neuron.md), recomputed activations (`activation_checkpointing`) among it.

A machine may refuse more: where a compiler or a library is missing, where there are fewer devices
than `processes`, or where a model cannot do it. `bench run SCENARIO --backend NAME --dry-run` says
what yours refuses.
"""


class UnknownKnob(Exception):  # noqa: N818 - told to whoever adds a knob
    """A knob of the schema that this page does not know how to set."""


@dataclass(frozen=True)
class Setting:
    """One value of one knob."""

    knob: str
    value: JsonValue
    shown: str
    """The value on the page; a number stands for all of its kind."""
    inferring: bool = False
    """Whether it is looked at in inference; else in training."""

    @property
    def needs(self) -> Mapping[str, JsonValue]:
        """What must be set for it to mean anything, and for inference where that is looked at."""
        own = _NEEDS.get(f"{self.knob}={self.value}", _NEEDS.get(self.knob, {}))
        return {**own, "task": "infer"} if self.inferring else own


@dataclass(frozen=True)
class Column:
    """One device that an adapter is for."""

    title: str
    backend: Backend
    probe: Probe | None
    """Null: the adapter describes no device."""

    def refusals(self, knobs: Knobs) -> list[Refusal]:
        """Return what the adapter refuses of a case on this device; of none, nothing."""
        return [] if self.probe is None else families.refusals(self.backend, knobs, self.probe)


@dataclass(frozen=True)
class Cell:
    """What becomes of a setting on a device."""

    word: Word
    reason: str | None = None


def columns() -> list[Column]:
    """Return the devices of all adapters of this package; those of others are none of its page."""
    found: list[Column] = []
    for backend in map(registry.get, registry.names()):
        if not type(backend).__module__.startswith("bench."):
            continue
        described = [Column(title, backend, probe) for title, probe in backend.devices().items()]
        found += described or [Column(backend.name, backend, None)]
    return found


def settings(model: type[BaseModel] = Knobs, prefix: str = "") -> Iterator[Setting]:
    """Yield the values of every knob, in the schema's order.

    Raises:
        UnknownKnob: the schema does not tell the values of one, and this module has no example.
    """
    for name, field in model.model_fields.items():
        knob = f"{prefix}{name}"
        kinds = list(_kinds(field.annotation))
        groups = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if groups:
            yield from settings(groups[0], f"{knob}.")
        elif knob in _EXAMPLES:
            yield from (Setting(knob, value, str(value)) for value in _EXAMPLES[knob])
        else:
            yield from _values(knob, kinds, field)


def knobs_of(*chosen: Setting) -> Knobs:
    """Return the knobs with these settings, and with what they need where nothing else is chosen.

    Raises:
        ValidationError: they mean nothing together, on any device.
    """
    flat: dict[str, JsonValue] = {}
    for setting in chosen:
        flat |= setting.needs
    flat |= {setting.knob: setting.value for setting in chosen}
    tree: dict[str, Any] = {}
    for knob, value in flat.items():
        *groups, name = knob.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    return Knobs.model_validate(tree)


def cell(setting: Setting, column: Column) -> Cell:
    """Return what becomes of a setting on a device."""
    if column.probe is None:
        return Cell("not applicable", f"this release runs nothing on {column.backend.name}")
    try:
        refused = column.refusals(knobs_of(setting))
    except ValidationError as error:
        raise UnknownKnob(
            f"{setting.knob}={setting.value} means nothing alone: name in _NEEDS of {__name__} "
            f"what it belongs to ({error.errors()[0]['msg']})"
        ) from error
    if not refused:
        return Cell("honoured")
    own = [refusal for refusal in refused if refusal.knob == setting.knob]
    if own:
        if _honoured(replace(setting, inferring=True), column):
            return Cell(_INFERENCE_ALONE, own[0].reason)
        return Cell("refused", own[0].reason)
    other = refused[0]
    if other.knob in setting.needs:
        return Cell("not applicable", f"it belongs to {other.knob}={other.value}: {other.reason}")
    return Cell("refused", str(other))


def together(found: Sequence[Setting], column: Column) -> Iterator[tuple[str, Refusal]]:
    """Yield pairs of settings that a device honours apart and refuses together, with the refusal.

    What it honours in inference alone is looked at there.

    Args:
        found: All settings.
        column: The device.
    """
    honoured = [known for setting in found if (known := _as_honoured(setting, column))]
    for one, other in itertools.combinations(honoured, 2):
        # Of what is honoured in inference alone, the cell says that training refuses it.
        told = one.inferring or other.inferring
        if one.knob == other.knob or (told and "task" in (one.knob, other.knob)):
            continue
        refused = _refused(column, one, other)
        # What the one needs may be all that the other cannot be with: then that pair is told.
        if refused and not _already_told(column, one, other):
            yield f"`{_text(one)}` with `{_text(other)}`", refused[0]


def page() -> str:
    """Return the page, in Markdown, as in an environment in which nothing is set."""
    with _nothing_set():
        return _page()


@contextlib.contextmanager
def _nothing_set() -> Iterator[None]:
    """Take away what an adapter would refuse on this machine alone."""
    kept = dict(os.environ)
    os.environ.clear()
    try:
        yield
    finally:
        os.environ.update(kept)


def _page() -> str:
    devices, found = columns(), list(settings())
    reasons: dict[str, int] = {}

    def shown(met: Cell) -> str:
        if met.reason is None:
            return met.word
        return f"{met.word} ({reasons.setdefault(met.reason, len(reasons) + 1)})"

    lines = [
        _row(["knob", "value", *(column.title for column in devices)]),
        _row(["---"] * (2 + len(devices))),
    ]
    for knob, values in itertools.groupby(found, lambda setting: setting.knob):
        for number, setting in enumerate(values):
            cells = [shown(cell(setting, column)) for column in devices]
            lines.append(_row([f"`{knob}`" if number == 0 else "", f"`{setting.shown}`", *cells]))
    pairs: dict[tuple[str, str], list[str]] = {}
    for column in devices:
        for pair, refusal in together(found, column):
            pairs.setdefault((pair, refusal.reason), []).append(column.title)
    lines += ["", "## Refused together, and not apart", ""]
    lines += [_row(["settings", "devices", "why"]), _row(["---"] * 3)]
    lines += [
        _row([pair, "; ".join(titles), f"{reasons.setdefault(reason, len(reasons) + 1)}"])
        for (pair, reason), titles in pairs.items()
    ]
    lines += ["", "## Why", ""]
    lines += [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([_HEAD, *lines, ""])


def main() -> None:
    """Print the page."""
    sys.stdout.write(page())


def _refused(column: Column, *chosen: Setting) -> list[Refusal]:
    """Return what is refused; nothing where the settings mean nothing together, on any device."""
    try:
        return column.refusals(knobs_of(*chosen))
    except ValidationError:
        return []


def _honoured(setting: Setting, column: Column) -> bool:
    try:
        return not column.refusals(knobs_of(setting))
    except ValidationError:
        return False


def _as_honoured(setting: Setting, column: Column) -> Setting | None:
    """Return the setting with what it takes for the device to honour it; null: nothing does."""
    word = cell(setting, column).word
    if word == _INFERENCE_ALONE:
        return replace(setting, inferring=True)
    return setting if word == "honoured" else None


def _already_told(column: Column, one: Setting, other: Setting) -> bool:
    return any(
        _refused(column, left, Setting(knob, value, str(value)))
        for left, right in ((one, other), (other, one))
        for knob, value in right.needs.items()
        if left.knob != knob
    )


def _values(knob: str, kinds: Sequence[Any], field: FieldInfo) -> Iterator[Setting]:
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            yield from (Setting(knob, value, str(value)) for value in typing.get_args(kind))
        elif kind is bool:
            yield Setting(knob, True, "true")
            if field.default is None:
                yield Setting(knob, False, "false")
        elif kind is int:
            yield Setting(knob, 2, "2 or more" if field.default == 1 else "any number")
        elif kind is float:
            yield Setting(knob, 0.5, "any number")
        elif kind is not type(None):
            raise UnknownKnob(f"{knob}: name a value of it in _EXAMPLES of {__name__}")


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, without what is annotated to them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _kinds(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _text(setting: Setting) -> str:
    return f"{setting.knob}={setting.shown}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
