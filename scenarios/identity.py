"""The three identities of a measurement, derived from the tag on each schema field.

- work_key: the work fields. Rows with equal work keys may be compared by ratio.
- series_key: work and treatment, with backend, device model and world: one line in the history.
- fingerprint: series_key, protocol, software versions, the environment's flags that act and the
  measurement version: what `--resume` skips.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from bench.scenarios.schema import Identity, Knobs, Measure

_DIGITS = 16
_AS_BEFORE = {"nodes": 1}
"""Knobs that came later with a default that is not null, and the value that every case had before:
in no key, so that they cut no series. Never changed, whatever becomes of the default."""


def tagged_fields(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Identity, Any]]:
    """Yield (dotted name, identity, value) of every tagged field, nested groups included."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from tagged_fields(value, f"{prefix}{name}.")
            continue
        for tag in field.metadata:
            if isinstance(tag, Identity):
                yield f"{prefix}{name}", tag, value


def _keyed(model: BaseModel, identity: Identity) -> dict[str, Any]:
    """Return what a key is made of: without nulls, so that a new knob cuts no series."""
    return {
        name: value
        for name, value in fields_of(model, identity).items()
        if value is not None and value != _AS_BEFORE.get(name)
    }


def fields_of(model: BaseModel, identity: Identity) -> dict[str, Any]:
    """Return the fields of one identity, by dotted name."""
    return {name: value for name, tag, value in tagged_fields(model) if tag is identity}


def work_key(knobs: Knobs) -> str:
    """Return the key of what is computed: equal keys may be compared by ratio."""
    return _digest(_keyed(knobs, Identity.WORK))


def work_difference(left: Knobs, right: Knobs) -> list[str]:
    """Return the names of the work fields in which two cases differ, in schema order."""
    other = fields_of(right, Identity.WORK)
    return [k for k, value in fields_of(left, Identity.WORK).items() if value != other[k]]


def series_key(
    knobs: Knobs,
    *,
    backend: str,
    device_model: str,
    world: int,
    contents: Mapping[str, str] | None = None,
) -> str:
    """Return the key of one line in the history.

    Args:
        knobs: Of the case.
        backend: Its name.
        device_model: What the probe called the device.
        world: The number of ranks.
        contents: Digests of files that knobs name, by knob: they stand in place of the paths.
    """
    return _digest(
        {
            "work": _keyed(knobs, Identity.WORK),
            "treatment": _keyed(knobs, Identity.TREATMENT) | dict(contents or {}),
            "backend": backend,
            "device_model": device_model,
            "world": world,
        }
    )


def fingerprint(
    series: str,
    knobs: Knobs,
    measure: Measure,
    *,
    versions: Mapping[str, str],
    measurement: int,
    flags: Mapping[str, str] | None = None,
) -> str:
    """Return the key of an exact repetition: equal fingerprints need not run again.

    Args:
        series: Its series key.
        knobs: Of the case.
        measure: Its protocol.
        versions: Of the software, by distribution.
        measurement: Version of the method.
        flags: Variables of its processes that may change a number; null: there are none.
    """
    return _digest(
        {
            "series": series,
            "protocol": _keyed(knobs, Identity.PROTOCOL)
            | _keyed(_acting(measure, knobs), Identity.PROTOCOL),
            "versions": dict(versions),
            "flags": dict(flags or {}),
            "measurement": measurement,
        }
    )


def _acting(measure: Measure, knobs: Knobs) -> Measure:
    """Return the protocol with what cannot act for this case at its default."""
    idle = set() if measure.precision_target is not None else {"max_launches"}
    if knobs.task != "train":
        idle |= {"health", "health_steps"}
    elif not measure.health:
        idle.add("health_steps")
    defaults = Measure()
    return measure.model_copy(update={name: getattr(defaults, name) for name in idle})


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGITS]
