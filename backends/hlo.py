"""Which products a graph holds, and in which types, from the text of XLA's HLO.

It reads the graph as the compiler is given it, before anything is fused or replaced. Torch-free.
"""

from __future__ import annotations

import re
from collections import Counter

_PRODUCTS = ("dot", "convolution", "ragged-dot")
_NAMES = {"f64": "fp64", "f32": "fp32", "bf16": "bf16", "f16": "fp16", "s8": "int8", "u8": "int8"}
_FLOAT8 = "f8"
_NO_NUMBERS = ("s", "u", "pred")
"""Whole numbers wider than a byte count or address something: no precision was asked for them."""

_DEFINITION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\w+)\[[^\]]*\]\S* ([\w-]+)\((.*)$")
_SHAPES = re.compile(r"\[[^\]]*\]|\{[^}]*\}")


def products(text: str) -> dict[str, int]:
    """Return how many products of each type of operands the graph holds.

    Args:
        text: A module in HLO's text form, with or without the types of operands at their use.

    Returns:
        Count by name (fp32, bf16, ...); two different types are joined, as in bf16+fp32.
    """
    defined: dict[str, str] = {}
    uses: list[list[str]] = []
    for line in text.splitlines():
        found = _DEFINITION.match(line)
        if found is None:
            continue
        name, element, operation, rest = found.groups()
        defined[name] = element
        if operation in _PRODUCTS:
            uses.append(_operands(rest))
    counts: Counter[str] = Counter()
    for operands in uses:
        types = {named for name in operands if (named := _named(defined[name])) is not None}
        if types:
            counts["+".join(sorted(types))] += 1
    return dict(counts)


def _operands(rest: str) -> list[str]:
    """Return the names of the first two operands; the third of a ragged-dot only counts groups."""
    inside = _SHAPES.sub("", rest).partition(")")[0]
    return [operand.split()[-1].lstrip("%") for operand in inside.split(",")][:2]


def _named(element: str) -> str | None:
    if element in _NAMES:
        return _NAMES[element]
    if element.startswith(_FLOAT8):
        return "fp8"
    return None if element.startswith(_NO_NUMBERS) else element
