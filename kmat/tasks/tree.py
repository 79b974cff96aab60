"""Finding files below a folder, and keeping to it: what links may do is decided here."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LEADS_OUT = "path leads out of the image folder"
LINKED_OUT = f"{LEADS_OUT}: by a link; --follow-links allows it"


def trouble(root: Path, ref: str, *, follow: bool = False) -> str | None:
    """Say why ``ref`` names no file that may be read; None if it does.

    Parameters
    ----------
    root : Path
        Folder that a relative ``ref`` starts from. An absolute one must lead into it; no ``..`` may occur.
    ref : str
    follow : bool
        Whether links may lead out of ``root``.

    Examples
    --------
    >>> trouble(Path("/data"), "../etc/passwd")
    'path leads out of the image folder'
    """
    if not ref:
        return "no path"
    if "\0" in ref or ".." in ref.replace("\\", "/").split("/"):
        return LEADS_OUT
    top = Path(os.path.abspath(root))  # noqa: PTH100 (which, unlike Path's, has no ".." in it)
    path = top / ref
    named_inside = path.is_relative_to(top)
    if not (_inside(root, path) or (follow and named_inside)):
        return LINKED_OUT if named_inside else LEADS_OUT
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if stat.S_ISREG(mode) else "not a file"


class Level(NamedTuple):
    """A folder and what it holds, sorted; links count as what they lead to.

    Attributes
    ----------
    path : Path
    folders : list of str
        Those that will be entered next; whoever walks may delete some.
    files : list of str
    left_out : list of (str, str)
        Links to folders that are not entered, and the folder itself if it cannot be listed, each with the reason.
    """

    path: Path
    folders: list[str]
    files: list[str]
    left_out: list[tuple[Path, str]]


def walk(start: Path, root: Path, *, follow: bool = False) -> Iterator[Level]:
    """Go through a folder from the top, also by links: into ``root``, or anywhere if they are to be followed."""
    pending: list[tuple[Path, frozenset[str]]] = [(start, frozenset())]
    while pending:
        path, above = pending.pop()
        above |= {os.path.realpath(path)}
        level = _list(path, root, above, follow=follow)
        yield level
        pending += [(path / name, above) for name in reversed(level.folders)]


def _list(path: Path, root: Path, above: frozenset[str], *, follow: bool) -> Level:
    level = Level(path, [], [], [])
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        level.left_out.append((path, f"unreadable: {error.strerror}"))
        return level
    for entry in entries:
        if not os.path.isdir(entry):  # noqa: PTH112 (unlike Path's, false for whatever cannot be looked at)
            level.files.append(entry.name)
        elif os.path.realpath(entry) in above:
            level.left_out.append((entry, "a link to a folder that it lies in"))
        elif entry.is_symlink() and not (follow or _inside(root, entry)):
            level.left_out.append((entry, LINKED_OUT))
        else:
            level.folders.append(entry.name)
    return level


def _inside(root: Path, path: Path) -> bool:
    """Whether a path, its links resolved, is below a folder; unlike ``Path.resolve`` it takes links in a circle."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
