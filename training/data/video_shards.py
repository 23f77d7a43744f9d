"""Streams videos from tar files in the WebDataset layout, read sequentially.

The files of a sample are adjacent and share a key, the path up to the first dot of the file name: a video or image,
and optionally `.txt` (caption), `.cls` (label) or `.json` (an object with any columns).

Unusual: an error in a shard or sample is returned as a record whose video is the `VideoDecodeError`, which is raised
when the video would be decoded. Thus one damaged file among thousands is counted as a broken video and does not stop
the run. So are a file of more than `tar_members.MAX_MEMBER_BYTES`, a damaged JSON, and a label of more than 64 bits.
"""

import glob
import itertools
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec
from datasets import IterableDataset

from processing_umt.image_frames_umt import IMAGE_SUFFIXES
from processing_umt.video_source_umt import VideoDecodeError

from . import tar_members
from .strict_json import parse_json
from .tar_members import MemberError, read_members
from .video_files import VIDEO_SUFFIXES

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_MAX_TEXT_BYTES = 4 << 20  # of captions, labels and JSON
_MAX_DIGITS = 20  # of an integer


def stream_shards(shards: list[str]) -> IterableDataset:
    """Streams the records of tar files; processes and workers split the stream by shard.

    Args:
        shards: paths or URLs (any that fsspec opens), see `expand_shards`.

    Returns:
        A stream of records: `video` (`{"path", "bytes"}`), and `label`, `caption` and further columns if present.
    """
    return IterableDataset.from_generator(read_shards, gen_kwargs={"shards": shards})


def expand_shards(pattern: str) -> list[str]:
    """The tar files that match a pattern with braces (`shards-{000..005}.tar`, `{train,val}.tar`) or wildcards (`*`,
    `?`), in order.

    Raises:
        ValueError: the pattern has no match, or local files do not exist.
    """
    shards = []
    for name in _expand_braces(pattern):
        if not re.search(r"[*?]", name):
            shards.append(name)
        elif "://" in name:
            filesystem, path = fsspec.url_to_fs(name)
            shards += sorted(filesystem.unstrip_protocol(found) for found in filesystem.glob(path))
        else:
            shards += sorted(glob.glob(name))
    if not shards:
        raise ValueError(f"No tar file matches {pattern}.")
    missing = [shard for shard in shards if "://" not in shard and not os.path.isfile(shard)]
    if missing:
        raise ValueError(f"{len(missing)} of the {len(shards)} shards of {pattern} do not exist, first {missing[0]}.")
    return shards


def _expand_braces(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    first, separator, last = match[1].partition("..")
    if separator and first.isdigit() and last.isdigit():
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for choice in choices for name in _expand_braces(before + choice + after)]


def read_shards(shards: list[str]) -> Iterator[dict[str, Any]]:
    """The records of all shards in order; see `stream_shards`."""
    for shard in shards:
        files = _read_files(shard)
        for key, group in itertools.groupby(files, lambda file: file[0]):
            yield _record(shard, key, (file[1:] for file in group))


def _read_files(shard: str) -> Iterator[tuple[str, str, bytes | VideoDecodeError]]:
    """(key, extension, content) of each file; an error that ends a shard is its last content."""
    reason = "unreadable"
    try:
        with fsspec.open(shard, "rb") as stream:
            for path, content in read_members(stream, _max_bytes):
                reason = "truncated"
                folder, name = os.path.split(path)
                if not name.startswith("."):
                    if isinstance(content, MemberError):
                        content = VideoDecodeError(f"{shard}/{path}", "unreadable", str(content))
                    stem, _, extension = name.partition(".")
                    yield os.path.join(folder, stem), f".{extension.lower()}", content
    except Exception as error:  # each protocol raises exceptions of its own library, a damaged archive those of many
        if "://" in shard and not isinstance(error, (tarfile.TarError, EOFError)):
            reason = "network"
        detail = " ".join(str(error).split())[:300] or type(error).__name__
        yield "", "", VideoDecodeError(shard, reason, detail)


def _max_bytes(name: str) -> int | None:
    name = name.lower()
    if name.endswith((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)):
        return tar_members.MAX_MEMBER_BYTES
    return _MAX_TEXT_BYTES if name.endswith((".txt", ".cls", ".json")) else None


def _record(shard: str, key: str, files: Iterable[tuple[str, bytes | VideoDecodeError]]) -> dict[str, Any]:
    record, video, error, found = {}, None, None, set()
    for extension, content in files:
        name = f"{shard}/{key}{extension}"
        if isinstance(content, VideoDecodeError):
            error = content
        elif extension in found:
            error = VideoDecodeError(name, "unreadable", "the shard contains it twice")
        elif extension.endswith(VIDEO_SUFFIXES) or (extension.endswith(IMAGE_SUFFIXES) and video is None):
            video = {"path": name, "bytes": content}  # an image beside a video is its thumbnail
        elif extension.endswith((".txt", ".cls", ".json")):
            try:
                record.update(_fields(extension, content))
            except ValueError as problem:
                error = VideoDecodeError(name, "unreadable", str(problem))
        found.add(extension)
    return {**record, "video": error or video or VideoDecodeError(f"{shard}/{key}", "missing")}


def _fields(extension: str, content: bytes) -> dict[str, Any]:
    """The columns of a sample in one of its files.

    Raises:
        ValueError: it is not a JSON object, or has values that a table can't contain.
    """
    text = content.decode("utf-8", "replace").strip()
    if extension.endswith(".txt"):
        return {"caption": text}
    if extension.endswith(".cls"):
        is_integer = re.fullmatch(r"-?\d+", text) is not None
        if is_integer and len(text) > _MAX_DIGITS:
            raise ValueError("its label has more than 64 bits")
        fields = {"label": int(text) if is_integer else text}
    else:
        fields = parse_json(content)
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    for name, value in fields.items():
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"its {name} has more than 64 bits")
        if isinstance(value, float) and math.isinf(value):
            raise ValueError(f"its {name} is infinite")
        for part in (name, *(value if isinstance(value, list) else [value])):
            if isinstance(part, str) and re.search("[\ud800-\udfff]", part):
                raise ValueError("it contains half of a character (a surrogate)")
    return fields
