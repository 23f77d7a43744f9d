"""Answers of a server on the loopback interface, for URLs of videos, images and shards.

A complete answer must give the frames of the file, as they were encoded without loss or decoded in order by PyAV; any
other must be a `VideoDecodeError` that names the URL. The answers are those of `http_answers.py`, and some with random
damage. Limits of time are shortened, as for the tests.
"""

import functools
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from processing_umt import video_download_umt
from processing_umt.video_decoding_umt import VideoDecodeError, VideoReader
from processing_umt.video_inputs_umt import read_frames
from umt_training.data.video_shards import read_shards

from ..robustness_cases import Case, Wrong
from .http_answers import HEADER_TIMEOUT, TIMEOUT, bad_answers, good_answers, ok, sized
from .noise import write_noise
from .raw_server import Answer, RawServer, drip

_NUM_DAMAGED = 60  # per kind of file
_WHOLE = 3.0  # seconds of a download
_SEND_SECONDS = 0.01


def build(folder: Path, seed: int) -> list[Case]:
    """Makes the corpus in folder and returns the cases."""
    generator = random.Random(seed)
    video, image = write_noise(folder / "clip.mp4", seed, 6, 32, 48).read_bytes(), _image(seed)
    kinds = (
        ("video URLs", video, _read_video, ""),
        ("image URLs", image, _read_image, ".png"),
    )
    cases = []
    for kind, file, read, suffix in kinds:
        expected = _decoded(file) if kind == "video URLs" else np.asarray(Image.open(io.BytesIO(file)))[None]
        answers: dict[str, tuple[Answer, str]] = {}
        answers |= {path: (answer, "right") for path, answer in good_answers(file).items()}
        answers |= {path: (answer, "network") for path, (answer, _) in bad_answers(file).items()}
        answers |= {path: (answer, "refused") for path, answer in _unsuitable(file).items()}
        for number in range(_NUM_DAMAGED):
            answers[f"/damaged-{number}"] = _damaged(file, generator), "either"
        for path, (_, wanted) in answers.items():
            run = functools.partial(_run, answers, path, suffix, wanted, read, expected)
            cases.append(Case(f"{kind} {path[1:]}", kind, run, seconds=20.0))
    shard = _shard(video)
    for name, answer, wanted in _shard_answers(shard):
        cases.append(Case(f"shard {name}", "shard URLs", functools.partial(_run_shard, answer, wanted, video)))
    return cases


# --- files ----------------------------------------------------------------------------------------------------------


def _image(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _decoded(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _shard(video: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for key in "ab":
            info = tarfile.TarInfo(f"{key}.mp4")
            info.size = len(video)
            tar.addfile(info, io.BytesIO(video))
    return file.getvalue()


# --- answers --------------------------------------------------------------------------------------------------------


def _unsuitable(file: bytes) -> dict[str, Answer]:
    """Complete answers that are not the file, and a server that is just fast enough for too long."""
    return {
        "/empty": sized(b""),
        "/page": sized(b"<!DOCTYPE html><html><body>Log in</body></html>", "Content-Type: text/html"),
        "/text": sized(b"text " * 300),
        "/playlist": sized(b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n"),
        "/zeros": sized(bytes(5000)),
        "/half": sized(file[: len(file) // 2]),
        "/first-byte": sized(file[:1]),
        "/half-until-closed": ok(file[: len(file) // 2]),
        "/endless-slow": lambda: drip(ok(file + bytes(1 << 26)), _SEND_SECONDS, 8192),
    }


def _damaged(file: bytes, generator: random.Random) -> bytes:
    """A good answer of which some bytes of the headers are changed, removed or repeated, or whose end is missing."""
    answer = bytearray(generator.choice([part for part in good_answers(file).values() if isinstance(part, bytes)]))
    end = answer.find(b"\r\n\r\n") + 4
    for _ in range(generator.randint(1, 4)):
        position = generator.randrange(min(end, len(answer)))
        match generator.randrange(4):
            case 0:
                answer[position] = generator.randrange(256)
            case 1:
                del answer[position : position + generator.randint(1, 8)]
            case 2:
                answer[position:position] = answer[position : position + generator.randint(1, 40)]
            case 3:
                del answer[len(answer) - generator.randint(1, len(answer) // 2) :]
    return bytes(answer)


def _shard_answers(shard: bytes) -> list[tuple[str, Answer, str]]:
    return [
        ("complete", sized(shard), "right"),
        ("until closed", ok(shard), "right"),
        ("missing", ok(b"", status="404 Not Found"), "refused"),
        ("broken", ok(b"", status="500 Broken"), "refused"),
        ("forbidden", ok(b"", status="403 Forbidden"), "refused"),
        ("loop", ok(b"", "Location: /a.tar", status="302 Found"), "refused"),
        ("nothing", b"", "refused"),
        ("garbage", b"GARBAGE\r\n\r\n", "refused"),
        ("short", sized(shard[:3000], extra=len(shard) - 3000), "refused"),
        ("half", sized(shard[: len(shard) // 2]), "refused"),
        ("empty", sized(b""), "refused"),
        ("page", sized(b"<html>Log in</html>"), "refused"),
    ]


# --- runs -----------------------------------------------------------------------------------------------------------


def _read_video(url: str) -> np.ndarray:
    with VideoReader(url) as reader:
        return reader.read(np.arange(reader.num_frames))


def _read_image(url: str) -> np.ndarray:
    return read_frames([url], np.zeros(1, np.int64)).permute(0, 2, 3, 1).numpy()


def _run(
    answers: dict[str, tuple[Answer, str]],
    path: str,
    suffix: str,
    wanted: str,
    read: Callable[[str], np.ndarray],
    expected: np.ndarray,
    folder: Path,
) -> str:
    video_download_umt._TIMEOUT, video_download_umt._HEADER_TIMEOUT = TIMEOUT, HEADER_TIMEOUT
    video_download_umt.MAX_DOWNLOAD_SECONDS = _WHOLE
    with RawServer({name + suffix * (name == path): answer for name, (answer, _) in answers.items()}) as server:
        url = server.address + path + suffix
        try:
            frames = read(url)
        except VideoDecodeError as error:
            if wanted == "right" or "\n" in str(error) or path not in str(error):
                raise
            if wanted == "network" and error.reason != "network":
                raise
            return "refused"
    if wanted in ("refused", "network"):
        raise Wrong(f"{len(frames)} frames were read")
    if not np.array_equal(frames, expected):
        raise Wrong("the frames differ from those of the file")
    return "right"


def _run_shard(answer: Answer, wanted: str, video: bytes, folder: Path) -> str:
    with RawServer({"/a.tar": answer}) as server:
        records = list(read_shards([f"{server.address}/a.tar"]))
        videos = [record["video"] for record in records]
    good = [found for found in videos if isinstance(found, dict)]
    if any(found["bytes"] != video for found in good):
        raise Wrong("a video differs from that of the shard")
    errors = [found for found in videos if isinstance(found, VideoDecodeError)]
    if wanted == "right" and (len(good), len(errors)) != (2, 0):
        raise AssertionError(f"{len(good)} of 2 videos, errors: {errors}")
    if wanted == "refused" and not errors:
        raise Wrong(f"{len(good)} of 2 videos and no error")
    return wanted
