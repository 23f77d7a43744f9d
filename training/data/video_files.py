"""Finds video files in folders, by the same rules for training data and for the command line."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..terminal import printable

# file name extensions of the videos in a folder
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".rm", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
# folders that operating systems and network storage create; those of which the name starts with a dot are hidden
_SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"}
_NUM_PROBED = 20  # number of videos of a list whose existence is checked


def list_video_files(paths: Iterable[str]) -> list[str]:
    """Replaces each folder among `paths` by the video files in it and its sub-folders, sorted by path.

    Files and URLs are kept, whatever their extensions; in a folder, the extension decides (`VIDEO_SUFFIXES`). Folders
    are searched by the rules of `walk_folder`.

    Raises:
        ValueError: a folder does not contain videos.
        OSError: a folder can't be read.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        inside = sorted(str(Path(path, *parts)) for parts in walk_folder(path, is_video_name))
        if not inside:
            raise ValueError(f"{path} contains no videos; their file names end in {', '.join(VIDEO_SUFFIXES)}.")
        files.extend(inside)
    return files


def walk_folder(folder: str | os.PathLike, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, ...]]:
    """The relative paths of the files in a folder and its sub-folders, as tuples of names, in a fixed order.

    Hidden files and folders (their names start with a dot) and folders of the operating system are left out. Links
    are followed; a folder that is reached twice is searched once. Everything with a wanted name is included, so that
    a folder or dangling link with the name of a video is reported when it is read.

    Args:
        folder: the folder itself may be hidden, or a link.
        is_wanted: whether a file of this name is included.

    Raises:
        OSError: a folder can't be read.
    """
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        resolved = os.path.realpath(parent)
        if resolved in visited:
            folders.clear()
            continue
        visited.add(resolved)
        names = [name for name in (*folders, *files) if is_wanted(name)]
        inner = [name for name in folders if is_visible(name) and name not in names]
        # links last: a folder that is reached twice keeps its own path
        folders[:] = sorted(inner, key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        above = Path(parent).relative_to(folder).parts
        yield from ((*above, name) for name in sorted(names) if is_visible(name))


def is_video_name(name: str) -> bool:
    """Whether a file name has the extension of a video."""
    return name.lower().endswith(VIDEO_SUFFIXES)


def is_visible(name: str) -> bool:
    """Whether a name is neither hidden nor that of a folder of the operating system."""
    return not name.startswith(".") and name not in _SYSTEM_FOLDERS


def is_inside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Whether a file is in a folder, whatever links lead to it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_unicode(names: Iterable[str]) -> None:
    """Raises a ValueError if a name is not Unicode (its bytes are not UTF-8), which a table can't contain."""
    for name in names:
        if not name.isascii() and re.search("[\ud800-\udfff]", name):
            raise ValueError(
                f"The name {printable(name)} is not UTF-8; rename the file or folder, or correct the list."
            )


def check_some_exist(paths: Sequence[str], source: str) -> None:
    """Raises a ValueError if none of about twenty files of a list exists; URLs are not checked."""
    local = [path for path in paths if "://" not in path]
    probes = local[:: max(1, len(local) // _NUM_PROBED)]
    if probes and not any(os.path.lexists(path) for path in probes):
        raise ValueError(
            f"None of {len(probes)} checked videos of {source} exists, first {probes[0]}. Set root to the folder to "
            "which the paths of the list are relative."
        )


def _raise(error: OSError) -> None:
    raise error
