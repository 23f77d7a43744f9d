"""Reading eight frames of a video: this package's reader beside Transformers', torchcodec, decord and plain PyAV.

The videos are generated with PyAV from moving textures and grain, with the bitrate and motion of real footage: 10
seconds of 340x256 at 28 frames per second (280 frames; three encodings) and 10 minutes of 640x480 at 30 (18,000
frames, a keyframe every 250). All readers run in this process, pinned to one core and thus one thread, and take turns
in every round. CPU time is reported beside wall time, which depends on the load of a shared machine. Every reader must
return the same frames; the table gives the largest difference to plain sequential decoding.

    python -m benchmarks.decode [--rounds 15] [--clips FOLDER] [--video FILE ...] [--output FOLDER]

`torchcodec` and `decord` are skipped if they are not installed.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import av
import numpy as np

from processing_umt.frame_sampling_umt import sample_clips
from processing_umt.video_decoding_umt import VideoReader

from .harness import RESULTS, write

CLIPS = {  # name -> height, width, frames, frames per second, x264 options
    "10 s, 340x256": (256, 340, 280, 28, {"crf": "23"}),
    "10 s, 340x256, no B-frames": (256, 340, 280, 28, {"crf": "23", "bf": "0"}),
    "10 s, 340x256, keyframe every 12": (256, 340, 280, 28, {"crf": "23", "g": "12"}),
    "10 min, 640x480, keyframe every 250": (480, 640, 18000, 30, {"crf": "29", "g": "250", "preset": "veryfast"}),
}


def write_clip(path: Path, height: int, width: int, frames: int, rate: int, options: dict[str, str]) -> None:
    """Write H.264 in MP4: four drifting textured layers with grain, and a cut every 8 seconds."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 3, (16, height, width)).astype(np.int16)

    def texture(scale: int, amplitude: float) -> np.ndarray:
        coarse = rng.normal(0, amplitude, (2 * height // scale + 2, 2 * width // scale + 2)).astype(np.int16)
        return coarse.repeat(scale, axis=0).repeat(scale, axis=1)[: 2 * height, : 2 * width]

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            moment = number % (8 * rate)
            if moment == 0:
                layers = [texture(scale, amplitude) for scale, amplitude in ((48, 30), (24, 20), (8, 12), (4, 8))]
                speeds = rng.uniform(-1, 1, (4, 2)) * (height / 2 - 1, width / 2 - 1) / (8 * rate)
            views = []
            for layer, (down, right) in zip(layers, speeds, strict=True):
                top, left = int(height / 2 + down * moment), int(width / 2 + right * moment)
                views.append(layer[top : top + height, left : left + width])
            luma = 128 + views[0] + views[1] + views[2] + views[3] + grain[rng.integers(16)]
            planes = [luma, 128 + views[0][::2, ::2], 128 + views[1][::2, ::2]]
            image = np.concatenate([np.clip(plane, 16, 235).astype(np.uint8).reshape(-1, width) for plane in planes])
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="yuv420p")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def read_ours(path: str, indices: np.ndarray) -> np.ndarray:
    with VideoReader(path) as reader:
        return reader.read(indices)


def read_transformers(path: str, indices: np.ndarray) -> np.ndarray:
    from transformers.video_utils import read_video_pyav

    return read_video_pyav(path, lambda metadata, **kwargs: indices)[0]


def read_plain(path: str, indices: np.ndarray) -> np.ndarray:
    """Decode sequentially up to the last requested frame and convert the requested ones."""
    requested, frames = set(indices.tolist()), {}
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in requested:
                frames[index] = frame.to_ndarray(format="rgb24")
            if index == indices[-1]:
                break
    return np.stack([frames[index] for index in indices.tolist()])


def read_torchcodec(path: str, indices: np.ndarray, seek_mode: str) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    return decoder.get_frames_at(indices=indices.tolist()).data.numpy()


def read_decord(path: str, indices: np.ndarray) -> np.ndarray:
    import decord

    return decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


def readers() -> dict[str, Callable[[str, np.ndarray], np.ndarray]]:
    found = {"ours": read_ours, "transformers (PyAV)": read_transformers, "PyAV, in order": read_plain}
    for name, reader in (
        ("torchcodec, exact", functools.partial(read_torchcodec, seek_mode="exact")),
        ("torchcodec, approximate", functools.partial(read_torchcodec, seek_mode="approximate")),
        ("decord", read_decord),
    ):
        package = name.split(",")[0]
        try:
            __import__(f"{package}.decoders" if package == "torchcodec" else package)
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{package} is skipped: {str(error).splitlines()[0]}")
        else:
            found[name] = reader
    return found


def measure(path: str, rounds: int, slow_rounds: int) -> dict[str, dict]:
    """Median CPU and wall milliseconds of each reader; readers slower than 2 s run only `slow_rounds` times."""
    with VideoReader(path) as reader:
        num_frames, rate = reader.num_frames, reader.fps
    indices = sample_clips(num_frames, 8)[0]
    contenders = readers()
    reference = read_plain(path, indices).astype(int)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    results = {}
    for name, read in contenders.items():  # also a warm-up of caches and imports
        frames = read(path, indices)
        same_count = len(frames) == len(reference)
        difference = int(np.abs(frames.astype(int) - reference).max()) if same_count else None
        results[name] = {"frames": len(frames), "max_difference": difference}
    for number in range(rounds):
        order = list(contenders)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            slow = times[name] and times[name][0][1] > 2
            if slow and len(times[name]) >= slow_rounds:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name](path, indices)
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    for name, pairs in times.items():
        results[name]["rounds"] = len(pairs)
        for position, clock in enumerate(("cpu_ms", "wall_ms")):
            values = [1000 * pair[position] for pair in pairs]
            results[name][clock] = round(statistics.median(values), 2)
            results[name][f"{clock}_best"] = round(min(values), 2)
    return {"num_frames": num_frames, "fps": round(rate, 3), "bytes": os.path.getsize(path), "readers": results}


def environment() -> dict[str, str]:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {}
    for package in ("av", "transformers", "torch", "torchcodec", "decord", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": names[0].split(":")[1].strip(), "cores_used": 1, "python": platform.python_version(), **versions}


def as_markdown(results: dict) -> str:
    lines = ["# Reading eight frames of a video, one core", ""]
    lines.append(", ".join(f"{key} {value}" for key, value in results["environment"].items() if value))
    for clip, result in results["clips"].items():
        lines += ["", f"## {clip} ({result['num_frames']} frames, {result['bytes'] / 1e6:.1f} MB)", ""]
        lines += [
            "| reader | CPU ms, median (best) | wall ms, median (best) | CPU, ours = 1 | frames | max difference |"
        ]
        lines += ["|---|---|---|---|---|---|"]
        ours = result["readers"]["ours"]["cpu_ms"]
        for name, row in result["readers"].items():
            cells = [f"{row[clock]:.1f} ({row[f'{clock}_best']:.1f})" for clock in ("cpu_ms", "wall_ms")]
            cells += [f"{row['cpu_ms'] / ours:.2f}", str(row["frames"]), str(row["max_difference"])]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slow-rounds", type=int, default=3, help="rounds of a reader that takes over 2 seconds")
    parser.add_argument("--clips", type=Path, help="folder for the generated videos (default: a temporary one)")
    parser.add_argument("--video", nargs="*", default=[], help="more videos to measure")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # FFmpeg uses as many threads as it has cores: one
    results = {"environment": environment(), "clips": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.clips or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {Path(video).name: Path(video) for video in arguments.video}
        for number, (name, settings) in enumerate(CLIPS.items()):
            paths[name] = folder / f"{number}.mp4"
            if not paths[name].exists():
                partial = paths[name].with_suffix(".part.mp4")
                write_clip(partial, *settings)
                os.replace(partial, paths[name])
        for name, path in paths.items():
            results["clips"][name] = measure(str(path), arguments.rounds, arguments.slow_rounds)
            print(json.dumps({name: results["clips"][name]}, indent=1), flush=True)
    write(arguments.output, "decode", results, as_markdown(results))


if __name__ == "__main__":
    main()
