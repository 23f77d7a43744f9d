"""From a video file to a batch: what each step of the loader costs a core, and whether it keeps up with a GPU.

Clips of 340x256 with a keyframe every 12 frames, which is what a corpus re-encoded for training looks like, are read,
cropped, resized and flipped by the data set of stage 1 in this process, pinned to one core; `collate_clips` makes
batches. The step that takes longest is named, and one core's clips a second are multiplied to 16 cores. With a
measured GPU step (`--step-clips`, the clips a second of `benchmarks.stage1`) the page says which of the two waits.

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
    """Wraps functions and adds up the CPU seconds that each takes."""

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
    """Stage 1's clips of generated videos, with a clock on what a clip goes through."""
    records = []
    for number in range(videos):
        path = folder / f"{number}.mp4"
        write_clip(path, 256, 340, 28 * seconds, 28, {"crf": "23", "g": "12"})
        records.append({"video": str(path)})
    crop = clock.timed("crop, resize, flip", partial(augment_for_pretraining, size=224))
    dataset = VideoClipDataset(records, 8, partial(sample_training_clip, sampling="segments"), crop)
    return dataset


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=8, help="also the clips of a batch")
    parser.add_argument("--seconds", type=int, default=10, help="length of a video")
    parser.add_argument("--rounds", type=int, default=10, help="epochs that are timed")
    parser.add_argument("--step-clips", type=float, help="clips a second that the training step takes")
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
            clock.seconds["open, seek, decode"] -= clock.seconds["crop, resize, flip"]  # which is within
            total = {"CPU seconds": time.process_time() - cpu, "wall seconds": time.perf_counter() - wall}
            if epoch:  # the first one warms up
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
    lines += ["| step | ms a clip, median |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in milliseconds.items()]
    lines += ["", f"{slowest} takes longest. {per_core:.0f} clips a second and core; {CORES} cores: "]
    lines[-1] += f"{CORES * per_core:.0f} (one core's, multiplied)."
    if options.step_clips:
        waits = "the step waits for the videos" if options.step_clips > CORES * per_core else "the videos keep up"
        lines.append(f"A training step takes {options.step_clips:.0f} clips a second: {waits}.")
    write(options.output, "data_loop", results, "\n".join(lines) + "\n")
    return results


if __name__ == "__main__":
    main()
