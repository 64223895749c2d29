"""A YAML file with its schema version is read whole, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scenarios import yamlfile
from bench.scenarios.errors import ScenarioError


def read(path: Path) -> dict[str, object]:
    return yamlfile.read(path, "mine.yaml", kind="a price file", version=2)


def test_a_mapping_is_returned_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbfschema: 1\na: [1, x]\n")
    assert read(path) == {"schema": 1, "a": [1, "x"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "mine.yaml: is empty; start with schema: 2"),
        (b"\xff", "mine.yaml: is not a text file (UTF-8); name a YAML file"),
        (b"a: " + b"x" * 1_000_000, "mine.yaml: is larger than 1000000 bytes; name a price file"),
        (b"- 1", "mine.yaml: holds a list where a mapping belongs; write key: value"),
        (b"7", "mine.yaml: holds 7 where a mapping belongs; write key: value"),
        (b"a: 1", "mine.yaml: schema: is missing; write schema: 2 at the top"),
        (b"schema: true", "mine.yaml: schema: true is no version; write 2"),
        (
            b"schema: 3",
            "mine.yaml: schema: 3 is newer than what this version reads (2); upgrade accelbench",
        ),
    ],
)
def test_whatever_is_wrong_is_one_message(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        read(path)
    assert str(caught.value) == message


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"^mine\.yaml: there is no such file$"):
        read(tmp_path / "nowhere")
