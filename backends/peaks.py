"""What a device can do at most, type by type, from a table in which every figure has its source.

The figures are dense ones, in floating-point operations per second of one device as a rank drives
it. A device is found by its exact name: an unknown variant has no peak, and never that of another
part. Torch-free.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, model_validator

from bench.scenarios.schema import Strict

SHIPPED: Final = Path(__file__).parent / "peaks.json"
VARIABLE: Final = "BENCH_PEAKS"
"""Environment variable that names a table of the user's own."""

Type = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PeaksError(Exception):
    """A table of peaks that cannot be used: the message names the file, the place and the fault."""


class Source(Strict):
    """Where the figures of a part stand."""

    title: Annotated[str, Field(min_length=1)]
    date: Annotated[str, Field(min_length=1)]
    url: Annotated[str, Field(min_length=1)]

    def __str__(self) -> str:
        return f"{self.title}, {self.date}, {self.url}"


class Part(Strict):
    """One device, under every name by which software knows it."""

    device: Annotated[str, Field(min_length=1)]
    names: Annotated[list[str], Field(min_length=1)]
    """What the device is called in `Probe.device_model`, letter by letter."""
    dense_flops_per_s: Annotated[dict[Type, Rate], Field(min_length=1)]
    """By the type of the operands; a type is left out where its figure is not certain."""
    source: Source
    remark: str | None = None


class Table(Strict):
    """A file of parts."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    parts: list[Part]

    @model_validator(mode="after")
    def _a_name_is_one_device(self) -> Table:
        names = [name for part in self.parts for name in part.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named more than once: {', '.join(twice)}")
        return self


class Peak(Strict):
    """The most that one device can do in products of one type."""

    flops_per_s: float
    dtype: str
    device: str
    """The part that the figure is for."""
    source: str


class Peaks:
    """Parts by name; those of an earlier table hide those of a later one."""

    def __init__(self, *tables: Table) -> None:
        self._parts: dict[str, Part] = {}
        for table in tables:
            for part in table.parts:
                for name in part.names:
                    self._parts.setdefault(name, part)

    def find(self, device_model: str | None, dtype: str) -> Peak | None:
        """Return the peak of a device in one type; null: that device, or that type, is not there.

        Args:
            device_model: As `Probe.device_model` has it.
            dtype: One of fp64, fp32, tf32, bf16, fp16, fp8 and int8.
        """
        part = self._parts.get(device_model or "")
        if part is None:
            return None
        for name, rate in part.dense_flops_per_s.items():
            if name == dtype:
                source = str(part.source)
                return Peak(flops_per_s=rate, dtype=name, device=part.device, source=source)
        return None


def load(path: Path | None = None) -> Peaks:
    """Return the shipped table, behind a user's own where there is one.

    Args:
        path: A JSON file of the same form as `SHIPPED`.

    Raises:
        PeaksError: the file cannot be read, or is no table of peaks.
    """
    return Peaks(_shipped()) if path is None else Peaks(_read(path), _shipped())


def users() -> Path | None:
    """Return the table of the user's own that the environment names; null: it names none."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


@functools.cache
def _shipped() -> Table:
    return _read(SHIPPED)


def _read(path: Path) -> Table:
    try:
        return Table.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PeaksError(f"{path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise PeaksError(
            f"{path}, {where}: {first['msg']}; a table of peaks looks like {SHIPPED.name} in "
            "bench.backends"
        ) from error
