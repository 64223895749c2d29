"""Taking this machine out of a text before it is recorded: its folders, its name and its user.

Pure text work, told nothing of launches or records; torch-free.
"""

from __future__ import annotations

import getpass
import platform
import re
import sys
from pathlib import Path

import bench

_SHORTEST_NAME = 4
_ORDINARY_WORDS = frozenset({"root", "user", "admin", "ubuntu", "localhost", "localdomain"})
"""Names that many machines share: they give nobody away, and replacing them garbles messages."""
_PATH = re.compile(
    r"""
    (?: (?<=file://) | (?<=\s-[IL]) | (?<![\w.~>/)\]}]) )  # not inside a URL or a relative path
    (?! /(?:proc|sys|dev)/ )                                 # the same on every machine
    (?:
        (?<=") (?:/[^/"\n]+){2,} (?=/?")                     # in quotes, spaces belong to it
      | (?<=') (?:/[^/'\n]+){2,} (?=/?')
      | (?:/[^/\s:,;=|'"`<>()\[\]{}]+){2,}
    )
    """,
    re.VERBOSE,
)
_HOME_OF_SOMEBODY = re.compile(r"/(?:home|Users)/[^/]+")


def scrub(text: str) -> str:
    """Return the text without this machine's folders, host name and user.

    Known folders become `<cwd>`, `<bench>`, `<env>`, `<python>` or `<home>`. Of any other absolute
    path of two or more components only the last stays: `<path>/NAME`. Host and user become
    `<host>` and `<user>` unless they are too short or too common to tell them from other words.
    """
    replaced = _PATH.sub(_last_component, _without_known_folders(text))
    for word, name in ((platform.node(), "<host>"), (_user(), "<user>")):
        if len(word) >= _SHORTEST_NAME and word.lower() not in _ORDINARY_WORDS:
            replaced = re.sub(rf"\b{re.escape(word)}\b", name, replaced)
    return replaced


def shareable_path(path: str) -> str:
    """Return a path to a file as a record may hold it, so that it can be found again.

    Below the working directory and the home folder it is written from there. Another one that names
    a user keeps its last component only: `<path>/NAME`.
    """
    file = Path(path)
    if path.startswith("~/") or not (file.is_absolute() or path.startswith("~")):
        return path
    for folder, name in ((Path.cwd(), Path()), (Path.home(), Path("~"))):
        if len(folder.parts) > 1 and file.is_relative_to(folder):
            return str(name / file.relative_to(folder))
    names = {*file.parts} - _ORDINARY_WORDS
    of_somebody = path.startswith("~") or _HOME_OF_SOMEBODY.match(path) or _user() in names
    return f"<path>/{file.name}" if of_somebody else path


def _without_known_folders(text: str) -> str:
    folders = (
        (str(Path.cwd()), "<cwd>"),
        (str(Path(bench.__file__).absolute().parent.parent), "<bench>"),
        (sys.prefix, "<env>"),
        (sys.base_prefix, "<python>"),
        (str(Path.home()), "<home>"),
    )
    # The longest first, or a folder inside another would keep the rest of its path.
    for path, name in sorted(folders, key=lambda folder: -len(folder[0])):
        if len(path) > 1:
            text = re.sub(rf"{re.escape(path)}(?![\w.-])", name, text)
    return text


def _last_component(match: re.Match[str]) -> str:
    path = match.group()
    return "<path>" if _HOME_OF_SOMEBODY.fullmatch(path) else f"<path>/{path.rpartition('/')[2]}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
