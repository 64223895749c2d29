"""A case that names something that does not exist; torch-free, so that the parent can know it."""

from __future__ import annotations


class BadCase(Exception):  # noqa: N818 - the user's input, not a failure of ours
    """The case cannot mean anything: the message names the knob, its value and the remedy."""
