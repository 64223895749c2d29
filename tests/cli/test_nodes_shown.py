"""A number of several machines says so where it is printed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from bench.cli.record_page import write_page
from bench.results import table as tables
from bench.results.record import Record
from bench.results.rows import rows_of
from bench.results.store import Stored
from tests.builders import a_case, a_record


def of(nodes: int) -> Record:
    return a_record(a_case(knobs={"processes": 4, "nodes": nodes}))


def stored(record: Record) -> Stored:
    return Stored(record, Path("results"), Path("a.json"))


@pytest.mark.parametrize(("nodes", "said"), [(1, "4 processes, "), (2, "4 processes on 2 nodes, ")])
def test_the_page_and_the_table_name_the_nodes_where_there_are_several(
    nodes: int, said: str
) -> None:
    page, table = io.StringIO(), io.StringIO()
    write_page(stored(of(nodes)), page, width=100)
    assert f"Test CPU, {said}" in page.getvalue()
    tables.write(tables.Table(rows_of([stored(of(nodes))], None)), tables.Format.RICH, table)
    assert f"cpu: Test CPU, {said}" in table.getvalue()
