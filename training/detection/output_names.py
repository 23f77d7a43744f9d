"""Names of the files that are written for several videos."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from urllib.parse import unquote, urlsplit


def output_names(videos: Sequence[str]) -> list[str]:
    """A name without extension for each video: that of its file, `clip` for `a/clip.mp4`.

    If several files have the same name, the first keeps it, and the others become `clip_2`, `clip_3` and so on, as far
    as no other file has this name. Names that differ only in case count as the same, as on some file systems.

    Args:
        videos: paths or URLs.
    """
    stems = [_stem(video) for video in videos]
    taken = {stem.casefold() for stem in stems}
    seen: Counter[str] = Counter()
    names = []
    for stem in stems:
        seen[stem.casefold()] += 1
        name, number = stem, seen[stem.casefold()]
        if number > 1:
            while (name := f"{stem}_{number}").casefold() in taken:
                number += 1
            taken.add(name.casefold())
        names.append(name)
    return names


def extension(video: str) -> str:
    """Extension of the file of a path or URL, such as `.mp4`."""
    return _path(video).suffix


def _stem(video: str) -> str:
    return _path(video).stem or "video"


def _path(video: str) -> PurePath:
    is_url = video.lower().startswith(("http://", "https://"))
    return PurePath(unquote(urlsplit(video).path) if is_url else video)
