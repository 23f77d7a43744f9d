"""Streams videos from tar files in the WebDataset layout, read sequentially.

The files of a sample are adjacent and share a key, the path up to the first dot of the file name: a video or image,
and optionally `.txt` (caption), `.cls` (label) or `.json` (an object with any columns).

Unusual: an error in a shard or sample is returned as a record whose video is the `VideoDecodeError`, which is raised
when the video would be decoded. Thus one damaged file among thousands is counted as a broken video and does not stop
the run.
"""

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import fsspec
from aiohttp import ClientError
from datasets import IterableDataset

from processing_umt.image_frames_umt import IMAGE_SUFFIXES
from processing_umt.video_source_umt import VideoDecodeError

from .video_files import VIDEO_SUFFIXES

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")


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
            yield _record(shard, key, [file[1:] for file in group])


def _read_files(shard: str) -> Iterator[tuple[str, str, bytes | VideoDecodeError]]:
    """(key, extension, content) of each file; an error is the last content of its shard."""
    reason = "unreadable"
    try:
        with fsspec.open(shard, "rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                reason = "truncated"
                folder, name = os.path.split(member.name)
                if member.isfile() and not name.startswith("."):
                    stem, _, extension = name.partition(".")
                    yield os.path.join(folder, stem), f".{extension.lower()}", tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, ClientError) as error:
        yield "", "", VideoDecodeError(shard, reason, str(error))


def _record(shard: str, key: str, files: list[tuple[str, bytes | VideoDecodeError]]) -> dict[str, Any]:
    record, video, error = {}, None, None
    for extension, content in files:
        if isinstance(content, VideoDecodeError):
            error = content
        elif extension.endswith((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)):
            video = {"path": f"{shard}/{key}{extension}", "bytes": content}
        elif extension.endswith(".txt"):
            record["caption"] = content.decode("utf-8", "replace").strip()
        elif extension.endswith(".cls"):
            label = content.decode("utf-8", "replace").strip()
            record["label"] = int(label) if re.fullmatch(r"-?\d+", label) else label
        elif extension.endswith(".json"):
            try:
                record.update(json.loads(content))
            except (TypeError, ValueError):
                error = VideoDecodeError(f"{shard}/{key}{extension}", "unreadable", "it is not a JSON object")
    return {**record, "video": error or video or VideoDecodeError(f"{shard}/{key}", "missing")}
