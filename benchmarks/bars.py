"""Horizontal bars in groups, as one SVG document that reads on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LABELS, _VALUES = 720, 190, 70
_BAR, _GAP, _HEAD = 20, 6, 40
_COLOURS = ("#2b7a78", "#c77d0a", "#b03a48")
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.head{font-weight:600}"
    ".page{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#ddd}.page{fill:#161b22}}"
)


@dataclass(frozen=True)
class Bar:
    """One value, at least 0."""

    label: str
    value: float


@dataclass(frozen=True)
class Group:
    """Bars under one heading; the same place in every group has the same colour."""

    label: str
    bars: tuple[Bar, ...]


def bars(title: str, groups: Sequence[Group]) -> str:
    """Return the document.

    Raises:
        ValueError: there is no positive value to scale by.
    """
    longest = max((bar.value for group in groups for bar in group.bars), default=0.0)
    if longest <= 0:
        raise ValueError("bars need a positive value to scale by")
    scale = (_WIDTH - _LABELS - _VALUES) / longest
    parts, y = [_text(0, 20, title, "head")], _HEAD
    for group in groups:
        parts.append(_text(0, y + 15, group.label, "head"))
        y += _BAR + _GAP
        for place, bar in enumerate(group.bars):
            colour = _COLOURS[place % len(_COLOURS)]
            width = bar.value * scale
            parts.append(_text(12, y + 15, bar.label))
            parts.append(
                f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
            )
            parts.append(_text(_LABELS + width + 6, y + 15, f"{bar.value:.0f}"))
            y += _BAR + _GAP
        y += _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -4 {_WIDTH + 24} {y + 8}" '
        f'role="img" aria-label="{escape(title)}"><style>{_STYLE}</style>'
        f'<rect class="page" x="-12" y="-4" width="{_WIDTH + 24}" height="{y + 8}"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
