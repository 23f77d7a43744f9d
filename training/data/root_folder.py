"""The paths of a list of videos, joined to its root folder, so that a video has one path.

The root may be a fence: a list from elsewhere names no file outside of it.

Paths are checked with their links resolved when the list is loaded. A URL is one of a remote protocol, and none that
reads local files (`file://`, `local://`) or chains protocols (`zip://…::…`, `simplecache::…`).
"""

import functools
import os
import re
from collections.abc import Iterable

from processing_umt.image_frames_umt import IMAGE_SUFFIXES

from .video_files import VIDEO_SUFFIXES, is_video_name

REMOTE_PROTOCOLS = ("http", "https", "hf", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss")


def join_root(paths: Iterable[str], root: str, is_fence: bool) -> list[str]:
    """Joins relative paths to a folder; URLs stay as they are.

    Two spellings of a path, as `a/b.mp4` and `./a//b.mp4`, give one path. A name without the extension of a video or
    an image, of which no file exists, is the id of the video in its folder with an extension.

    Args:
        paths: paths and URLs as in a list.
        root: an existing folder.
        is_fence: whether all videos must be in the folder, or remote.

    Raises:
        ValueError: a path or a URL is outside of the fence, or an id has several videos.
    """
    joined = []
    inside, spelling = _Fence(root), _Spelling(root)
    for path in paths:
        if "://" not in path:
            joined.append(spelling.of(path))
            if is_fence:
                inside.check(path, joined[-1])
        elif is_fence and not _is_remote(path):
            raise ValueError(
                f"The video {path} is not in the root folder {root}: with a root, URLs are of the protocols "
                f"{', '.join(REMOTE_PROTOCOLS)}. Write paths relative to the root."
            )
        else:
            joined.append(path)
    return joined


def _is_remote(url: str) -> bool:
    protocol = re.match(r"([a-z0-9]+)://", url.lower())
    return protocol is not None and protocol[1] in REMOTE_PROTOCOLS and "::" not in url


class _Spelling:
    """One spelling of each path: relative to the root where possible, normalised, with an extension."""

    def __init__(self, root: str):
        self.root, self.absolute_root = root, os.path.abspath(root)
        self.resolve_folder = functools.cache(os.path.realpath)
        self.videos = functools.cache(_videos_by_stem)

    def of(self, path: str) -> str:
        written = os.path.join(self.absolute_root, path)
        absolute = os.path.normpath(written)
        if os.pardir in path.split(os.sep) and self._folder_of(written) != self._folder_of(absolute):
            return os.path.join(self.root, path)  # ".." after a link leads elsewhere
        inside = absolute.startswith(self.absolute_root + os.sep)
        relative = os.path.relpath(absolute, self.absolute_root) if inside else os.path.normpath(path)
        normal = os.path.join(self.root, relative)
        return normal if normal.lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES) else self._with_extension(normal)

    def _folder_of(self, path: str) -> str:
        return self.resolve_folder(os.path.dirname(path))

    def _with_extension(self, path: str) -> str:
        folder, name = os.path.split(path)
        found = self.videos(folder).get(name, [])
        if not found or os.path.lexists(path):
            return path
        if len(found) > 1:
            raise ValueError(f"The video {path} may be {' or '.join(found)}; write the extension in the list.")
        return os.path.join(folder, found[0])


def _videos_by_stem(folder: str) -> dict[str, list[str]]:
    """The names of the videos in a folder, by their names without extension; empty if it can't be listed."""
    found: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):  # a ValueError for the character NUL
        return found
    for name in filter(is_video_name, names):
        found.setdefault(os.path.splitext(name)[0], []).append(name)
    return found


class _Fence:
    def __init__(self, root: str):
        self.root, self.limit = root, os.path.realpath(root)
        self.resolve_folder = functools.cache(os.path.realpath)
        self.links = functools.cache(_links)

    def check(self, path: str, joined: str) -> None:
        """Raises a ValueError if a path leads out of the root, also by a link.

        Links are found by listing each folder once: a call of the system for each of a million videos in network
        storage would take minutes.
        """
        if "\0" in path:
            raise ValueError(f"The video {path!r} contains the character NUL; correct the list.")
        folder, name = os.path.split(joined)
        resolved = os.path.join(self.resolve_folder(folder), name)
        links = self.links(folder)
        if links is None or name in links or name in ("", ".", ".."):
            resolved = os.path.realpath(joined)
        if not self._contains(resolved):
            is_link = self._contains(os.path.abspath(joined))
            link = f", by a link to {resolved}" if is_link else ""
            raise ValueError(
                f"The video {path} is outside the root folder {self.root}{link}. Correct the list, or set root to a "
                "folder that contains all videos."
            )

    def _contains(self, path: str) -> bool:
        return os.path.commonpath([self.limit, path]) == self.limit


def _links(folder: str) -> set[str] | None:
    """The names of the links in a folder; None if it can't be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:
        return None
