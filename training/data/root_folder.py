"""The root folder of a list of videos, as a fence: a list from elsewhere names no file outside of it.

Paths are checked with their links resolved when the list is loaded. A URL is one of a remote protocol, and none that
reads local files (`file://`, `local://`) or chains protocols (`zip://…::…`, `simplecache::…`).
"""

import functools
import os
import re
from collections.abc import Iterable

REMOTE_PROTOCOLS = ("http", "https", "hf", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss")


def join_root(paths: Iterable[str], root: str, is_fence: bool) -> list[str]:
    """Joins relative paths to a folder; URLs stay as they are.

    Args:
        paths: paths and URLs as in a list.
        root: an existing folder.
        is_fence: whether all videos must be in the folder, or remote.

    Raises:
        ValueError: a path or a URL is outside of the fence.
    """
    joined = []
    inside = _Fence(root)
    for path in paths:
        if "://" not in path:
            joined.append(os.path.join(root, path))
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
