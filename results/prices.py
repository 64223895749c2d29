"""The price file that a user gives, and what a million samples cost by it.

A price is taken from the file or is unknown: none is guessed, looked up or converted. This module
knows nothing of rows, and not where a figure is shown.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from bench.results.record import Record
from bench.scenarios import yamlfile
from bench.scenarios.errors import Location, ScenarioError, dotted, from_validation
from bench.scenarios.schema import Strict

PRICES_SCHEMA_VERSION: Final = 1
_MILLION = 1e6
_SECONDS_PER_HOUR = 3600.0


def _a_date(written: str) -> str:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", written):
        raise ValueError("not a day, as in 2026-11-20")
    try:
        dt.date.fromisoformat(written)
    except ValueError:
        raise ValueError("the calendar has no such day") from None
    return written


def _a_currency(written: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", written):
        raise ValueError("not a currency's three capital letters, as in USD")
    return written


class Price(Strict):
    """What an hour of one machine costs, and which runs pay it."""

    instance: Annotated[str, Field(min_length=1)]
    """The machine, as its provider calls it."""
    device: Annotated[str, Field(min_length=1)]
    """Device model as the records write it; `*` and `?` stand for any text and any character."""
    backend: Annotated[str | None, Field(min_length=1)] = None
    """Of the runs that pay this price; null: whichever."""
    devices: Annotated[int | None, Field(ge=1)] = None
    """Devices that the machine has. A run then pays for those it used, one a process, and one that
    used more does not pay this price. Null: the whole machine is paid for, whatever was used."""
    price_per_hour: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Of the whole machine, in `currency`."""
    currency: Annotated[
        str, AfterValidator(_a_currency), Field(json_schema_extra={"pattern": "^[A-Z]{3}$"})
    ]
    """Three letters, as in USD."""
    date: Annotated[str, AfterValidator(_a_date), Field(json_schema_extra={"format": "date"})]
    """The day on which the price was read."""
    source: Annotated[str, Field(min_length=1)]
    """Where it was read."""

    @property
    def citation(self) -> str:
        """Return what a reader needs to check the cost: machine, price, day and source."""
        share = "" if self.devices is None else f", shared among its {self.devices} devices"
        return (
            f"{self.instance} at {self.price_per_hour:.10g} {self.currency} an hour{share} "
            f"({self.date}, {self.source})"
        )

    def cost_per_million(self, samples_per_s: float, devices: int) -> float:
        """Return what a million samples cost at a throughput of so many devices, in `currency`."""
        share = 1.0 if self.devices is None else devices / self.devices
        return share * self.price_per_hour / _SECONDS_PER_HOUR / samples_per_s * _MILLION

    def applies(self, *, device: str, backend: str, devices: int) -> bool:
        """Return whether a run pays this price."""
        return (
            self.backend in (None, backend)
            and (self.devices is None or devices <= self.devices)
            and _matches(self.device, device)
        )


def _at_least_one(entries: list[Price]) -> list[Price]:
    if not entries:
        raise ValueError("holds no price: add an entry with instance, device and price_per_hour")
    return entries


class PriceList(Strict):
    """A price file."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = PRICES_SCHEMA_VERSION
    prices: Annotated[
        list[Price], AfterValidator(_at_least_one), Field(json_schema_extra={"minItems": 1})
    ]


@dataclass(frozen=True)
class Cost:
    """What a million samples cost, and by which price."""

    per_million: float
    currency: str
    source: str
    """Machine, price, day, and where the price was read."""


@dataclass(frozen=True)
class Prices:
    """The prices of a file, and what messages call it."""

    place: str
    prices: Sequence[Price]

    def of(self, *, device: str, backend: str, devices: int) -> Price | None:
        """Return the price that a run pays; null: none in the file is for its device.

        Args:
            device: Device model, as the record writes it.
            backend: Of the run.
            devices: Of all its processes.

        Raises:
            ScenarioError: more than one is, so the cost would be anyone's choice.
        """
        found = [
            (number, price)
            for number, price in enumerate(self.prices)
            if price.applies(device=device, backend=backend, devices=devices)
        ]
        if len(found) > 1:
            entries = " and ".join(f"prices[{number}] ({p.instance})" for number, p in found)
            several = "1 device" if devices == 1 else f"{devices} devices"
            raise ScenarioError(
                f"{self.place}: {entries}",
                f"each gives a price for {device!r} on {backend} with {several}",
                "keep one of them, or tell them apart by device or backend",
            )
        return found[0][1] if found else None


def read(path: Path) -> Prices:
    """Return the prices that a YAML file gives.

    Raises:
        ScenarioError: it cannot be read, or is no price file, with the entry and the remedy.
    """
    title = str(path)
    tree = yamlfile.read(path, title, kind="a price file", version=PRICES_SCHEMA_VERSION)

    def place(location: Location) -> str:
        key = dotted(location)
        return f"{title}: {key}{_instance(tree, location)}" if key else title

    try:
        found = PriceList.model_validate(tree)
    except ValidationError as error:
        raise from_validation(error, model=PriceList, place=place) from None
    return Prices(title, found.prices)


def cost_of(record: Record, prices: Prices) -> Cost | None:
    """Return the cost of a record's samples; null: no throughput, or no price for its device.

    Raises:
        ScenarioError: two of the prices are for its device.
    """
    if record.statistics is None or record.device is None:
        return None
    price = prices.of(device=record.device.model, backend=record.backend, devices=record.devices)
    if price is None:
        return None
    return Cost(
        per_million=price.cost_per_million(record.statistics.samples_per_s, record.devices),
        currency=price.currency,
        source=price.citation,
    )


def _instance(tree: dict[str, object], location: Location) -> str:
    """Return which machine an entry is about, for a message; empty where it does not say."""
    match tree, location:
        case {"prices": list(entries)}, ("prices", int(number), *_):
            entry = entries[number]
            name = entry.get("instance") if isinstance(entry, dict) else None
            return f" ({name})" if isinstance(name, str) and name else ""
    return ""


def _matches(pattern: str, text: str) -> bool:
    parts = {"*": ".*", "?": "."}
    return re.fullmatch("".join(parts.get(c, re.escape(c)) for c in pattern), text) is not None
