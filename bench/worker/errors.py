"""What can be wrong between the ranks of a launch; torch-free, so that the entry can know it."""

from __future__ import annotations


class CollectivesNotRealError(RuntimeError):
    """The ranks do not form the world that was asked for, or their all-reduce does not add up."""
