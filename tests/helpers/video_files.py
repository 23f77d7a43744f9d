"""Tiny videos, intact or broken in ten ways, written with PyAV."""

import io
import os
import tarfile
import wave
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from PIL import Image


def write_video(path: Path, num_frames: int = 12, height: int = 48, width: int = 64, colour: int = 0) -> Path:
    """Frame t is grey 16 t (mod 256) with a centred square of grey `colour`; MPEG-4, container by extension."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 400_000
        for time in range(num_frames):
            image = np.full((height, width, 3), 16 * time % 256, dtype=np.uint8)
            image[height // 4 : -height // 4, width // 4 : -width // 4] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def video_bytes(tmp_path: Path, **kwargs) -> bytes:
    return write_video(tmp_path / "for_bytes.mp4", **kwargs).read_bytes()


def write_noise(path: Path, seed: int, num_frames: int = 20, rate: int = 10) -> Path:
    """A video of 48 x 64 pixels whose frames are noise in squares of 16 pixels; creates its folder."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(num_frames):
            picture = generator.integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes a tar file of pairs (name, content)."""
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_broken_videos(folder: Path) -> dict[str, str]:
    """Writes ten broken videos, each with a different fault: path → reason of the error."""
    intact = write_video(folder / "intact.mp4").read_bytes()
    (folder / "intact.mp4").unlink()
    with wave.open(str(folder / "audio_only.avi"), "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    with av.open(str(folder / "audio_only.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (folder / "audio_only.avi").unlink()
    with av.open(str(folder / "zero_frames.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    picture = io.BytesIO()
    Image.new("RGB", (64, 48)).save(picture, "PNG")
    contents = {
        "empty.mp4": b"",
        "no_index.mp4": intact[: len(intact) // 2],
        "text.mp4": b"this is no video\n" * 50,
        "playlist.mp4": b"#EXTM3U\n#EXTINF:10,\nsegment.ts\n",
        "random.mp4": np.random.default_rng(0).bytes(5000),
        "picture.mp4": picture.getvalue(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "directory.mp4").mkdir()
    os.symlink(folder / "nowhere.mp4", folder / "dangling.mp4")
    reasons = {
        "audio_only.mkv": "no_video_stream",
        "dangling.mp4": "missing",
        "directory.mp4": "unreadable",
        "empty.mp4": "empty",
        "no_index.mp4": "truncated",
        "picture.mp4": "not_a_video",
        "playlist.mp4": "not_a_video",
        "random.mp4": "not_a_video",
        "text.mp4": "not_a_video",
        "zero_frames.avi": "no_frames",
    }
    return {str(folder / name): reason for name, reason in reasons.items()}
