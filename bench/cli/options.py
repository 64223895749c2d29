"""Options that several commands have.

Nothing heavy is imported here: `bench --help` answers at once.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Format(enum.StrEnum):
    """How a table is written."""

    RICH = "rich"
    JSON = "json"
    MARKDOWN = "markdown"
    CSV = "csv"


RESULTS = Path("results")
Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="Folder that records go to.")
]
TableFormat = Annotated[Format, typer.Option("--format", help="How to print the table.")]
