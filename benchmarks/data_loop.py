"""Cost of each step from a video file to a batch on one core, and whether the data loader keeps up with a GPU.

Videos of 340x256 pixels with a keyframe every 12 frames, as in a corpus re-encoded for training, are read, cropped,
resized and flipped by the dataset of stage 1 in this process, pinned to one core; `collate_clips` builds batches. The
page names the slowest step and extrapolates the throughput of one core to 16 cores. With the measured throughput of a
training step (`--step-clips`, the clips per second of `benchmarks.stage1`), it also reports whether the step waits for
data.

    python -m benchmarks.data_loop [--videos 8] [--seconds 10] [--rounds 10] [--step-clips 200]
"""

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from processing_umt.augmentation_umt import augment_for_pretraining
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training.data.video_dataset import VideoClipDataset, collate_clips

from .decode import write_clip
from .harness import RESULTS, environment, write

CORES = 16


class Clock:
    """Wraps functions and accumulates the CPU seconds of each."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function):
        def run(*args, **kwargs):
            start = time.process_time()
            result = function(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
            return result

        return run


def make_dataset(folder: Path, videos: int, seconds: int, clock: Clock) -> VideoClipDataset:
    """Stage-1 clips of generated videos, with the transform timed."""
    records = []
    for number in range(videos):
        path = folder / f"{number}.mp4"
        write_clip(path, 256, 340, 28 * seconds, 28, {"crf": "23", "g": "12"})
        records.append({"video": str(path)})
    crop = clock.timed("crop, resize, flip", partial(augment_for_pretraining, size=224))
    return VideoClipDataset(records, 8, partial(sample_training_clip, sampling="segments"), crop)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=8, help="number of videos, and batch size")
    parser.add_argument("--seconds", type=int, default=10, help="length of a video")
    parser.add_argument("--rounds", type=int, default=10, help="timed epochs")
    parser.add_argument("--step-clips", type=float, help="clips per second of the training step")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})  # FFmpeg counts the cores it may use
    torch.set_num_threads(1)
    clock = Clock()
    rounds = []
    collate = clock.timed("collate", collate_clips)
    read = clock.timed("open, seek, decode", lambda dataset, epoch, index: dataset[epoch, index])
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), options.videos, options.seconds, clock)
        for epoch in range(options.rounds + 1):
            clock.seconds.clear()
            wall, cpu = time.perf_counter(), time.process_time()
            collate([read(dataset, epoch, index) for index in range(len(dataset))])
            clock.seconds["open, seek, decode"] -= clock.seconds["crop, resize, flip"]  # nested in the former
            total = {"CPU seconds": time.process_time() - cpu, "wall seconds": time.perf_counter() - wall}
            if epoch:  # the first epoch is a warm-up
                rounds.append(clock.seconds | total)
    os.sched_setaffinity(0, before)
    milliseconds = {
        name: 1000 * statistics.median(seconds[name] for seconds in rounds) / options.videos for name in rounds[0]
    }
    steps = {name: value for name, value in milliseconds.items() if not name.endswith("seconds")}
    slowest = max(steps, key=steps.get)
    per_core = 1000 / milliseconds["CPU seconds"]
    results = {
        "environment": environment(torch.device("cpu")),
        "milliseconds_a_clip": milliseconds,
        "slowest": slowest,
        "clips_per_second_and_core": per_core,
        f"clips_per_second_on_{CORES}_cores": CORES * per_core,
        "training_step_clips_per_second": options.step_clips,
    }
    lines = ["# From a video to a batch, one core", ""]
    lines += [", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines += ["| step | ms per clip, median |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in milliseconds.items()]
    lines += ["", f"Slowest step: {slowest}. {per_core:.0f} clips per second and core; {CORES} cores: "]
    lines[-1] += f"{CORES * per_core:.0f} (extrapolated from one core)."
    if options.step_clips:
        waits = "it waits for data" if options.step_clips > CORES * per_core else "the data loader keeps up"
        lines.append(f"The training step takes {options.step_clips:.0f} clips per second: {waits}.")
    write(options.output, "data_loop", results, "\n".join(lines) + "\n")
    return results


if __name__ == "__main__":
    main()
