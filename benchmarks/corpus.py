"""`umt embed` with a corpus of tiny clips: speed beside a serial loop, memory, kills, and two processes.

The serial loop decodes in the process of the model, one video after the other, and keeps all vectors in memory. It
takes turns with the engine of the command, in blocks of a fifth of the clips, so that the load of the machine affects
both. Then the command itself runs once, and its memory is sampled; it runs again and is killed at random moments, and
is given again until it ends; and it runs in two processes of `torchrun`. All must give the same table.

    python -m benchmarks.corpus [--videos 5000] [--workers 2] [--kills 3]
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from pyarrow import Table, parquet

from modeling_umt import UMTConfig, UMTModel
from processing_umt import UMTVideoProcessor
from umt_training.corpus.clip_vectors import clip_vectors
from umt_training.data.batching import batches
from umt_training.search.window_vectors import window_vectors
from umt_training.search.windows import read_windows

from .decode import write_clip
from .harness import RESULTS, environment, write

BLOCKS, BATCH = 5, 4
DISTINCT = 50  # clips; the others are copies of them
EMBED = ["-m", "umt_training.cli", "embed"]


def make_corpus(folder: Path, number: int) -> tuple[Path, list[str]]:
    """A tiny model, and clips of 20 frames of 48x64 pixels."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    UMTModel(UMTConfig(image_size=32, num_frames=4, num_aligned_layers=1, **sizes)).save_pretrained(folder / "model")
    UMTVideoProcessor(size={"shortest_edge": 32}, crop_size=32, num_frames=4).save_pretrained(folder / "model")
    (folder / "videos").mkdir()
    paths = [folder / "videos" / f"{index:06d}.mp4" for index in range(number)]
    for index, path in enumerate(paths[:DISTINCT]):
        write_clip(path, 48, 64, 20 + index % 10, 10, {"crf": "23"})
    for index, path in enumerate(paths[DISTINCT:]):
        shutil.copyfile(paths[index % DISTINCT], path)
    return folder / "model", [str(path) for path in paths]


def load(folder: Path) -> tuple[UMTModel, UMTVideoProcessor]:
    return UMTModel.from_pretrained(folder).eval(), UMTVideoProcessor.from_pretrained(folder)


def serial_vectors(videos: list[str], model: UMTModel, processor: UMTVideoProcessor) -> np.ndarray:
    """Decodes and embeds in this process."""
    clips = (clip for video in videos for _, clip in read_windows(video, processor, None, None))
    vectors = []
    for batch in batches(clips, BATCH):
        with torch.inference_mode():
            vectors.append(clip_vectors(model, torch.cat(batch)).numpy())
    return np.concatenate(vectors)


def engine_vectors(videos: list[str], model: UMTModel, processor: UMTVideoProcessor, workers: int) -> np.ndarray:
    vectors = np.empty((len(videos), model.config.hidden_size), np.float32)
    for outputs in window_vectors(videos, model, processor, None, batch_size=BATCH, num_workers=workers):
        vectors[outputs.index] = outputs.outputs[0]
    return vectors


def measure_speed(folder: Path, videos: list[str], workers: int) -> dict[str, float]:
    model, processor = load(folder)
    seconds = {"serial": 0.0, "engine": 0.0}
    for block in np.array_split(videos, BLOCKS):
        block = block.tolist()
        start = time.perf_counter()
        expected = serial_vectors(block, model, processor)
        middle = time.perf_counter()
        vectors = engine_vectors(block, model, processor, workers)
        seconds["serial"] += middle - start
        seconds["engine"] += time.perf_counter() - middle
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    speeds = {f"{name}_clips_per_second": len(videos) / value for name, value in seconds.items()}
    return speeds | {"ratio": seconds["serial"] / seconds["engine"]}


def command(model: Path, videos: list[str], output: Path, *launcher: str) -> subprocess.Popen:
    arguments = [str(Path(videos[0]).parent), "--model", str(model), "--output", f"{output}/", "--num-workers", "2"]
    log = output.with_suffix(".log").open("a")
    return subprocess.Popen(
        [sys.executable, *launcher, *EMBED, *arguments],
        stdout=log,
        stderr=log,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def finish(process: subprocess.Popen, output: Path) -> Table:
    if process.wait():
        raise RuntimeError(f"exit code {process.returncode}: {output.with_suffix('.log').read_text()[-2000:]}")
    return parquet.read_table(output)


def measure_memory(model: Path, videos: list[str], output: Path) -> tuple[Table, dict[str, float]]:
    """The table of an uninterrupted command, and the resident memory of its main process from a fifth of the clips to
    the last part, after which the process ends."""
    start = time.perf_counter()
    process, samples = command(model, videos, output), []
    while process.poll() is None:
        samples.append((num_parts(output), resident_bytes(process.pid)))
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    table = finish(process, output)
    number = num_parts(output)
    later = [resident for parts, resident in samples if number / BLOCKS <= parts < number]
    growth = {"mebibytes_at_a_fifth": later[0] / 2**20, "growth_mebibytes": (max(later) - later[0]) / 2**20}
    return table, {"seconds": seconds, "samples": len(later), **growth}


def num_parts(output: Path) -> int:
    return sum(1 for _ in output.glob("part-*.parquet"))


def resident_bytes(process: int) -> int:
    """0 for a process that has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def kill_and_resume(model: Path, videos: list[str], output: Path, kills: int, number: int) -> tuple[Table, list[int]]:
    """The table of a command that was killed at random moments, each after a random one of `number` parts, and the
    number of parts after each kill."""
    generator, parts = random.Random(0), []
    for target in sorted(generator.sample(range(number), kills)):
        process = command(model, videos, output)
        while num_parts(output) < target and process.poll() is None:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.5))
        process.kill()
        process.wait()
        parts.append(num_parts(output))
    return finish(command(model, videos, output), output), parts


def check(table: Table, expected: Table, videos: list[str]) -> bool:
    """Whether a table has each video once, and the same vectors, bit for bit."""
    return table["video"].to_pylist() == videos and table.equals(expected)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    results = {"environment": environment(torch.device("cpu")), "videos": options.videos, "workers": options.workers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, videos = make_corpus(folder, options.videos)
        results["speed"] = measure_speed(model, videos, options.workers)
        expected, results["memory"] = measure_memory(model, videos, folder / "whole")
        is_whole = check(expected, expected, videos)
        number = num_parts(folder / "whole")
        killed, parts = kill_and_resume(model, videos, folder / "killed", options.kills, number)
        results["kills"] = {"parts_after_each": parts, "equal": is_whole and check(killed, expected, videos)}
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        two = folder / "two"
        shared = finish(command(model, videos, two, *launcher), two)
        results["two_processes"] = {"equal": is_whole and check(shared, expected, videos)}
    write(options.output, "corpus", results, page(results))
    return results


def page(results: dict) -> str:
    speed, memory, kills = results["speed"], results["memory"], results["kills"]
    lines = [f"# A corpus of {results['videos']:,} tiny clips, {results['workers']} workers", ""]
    lines += [", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines += ["| measure | value |", "|---|---|"]
    lines += [f"| serial loop, clips per second | {speed['serial_clips_per_second']:.1f} |"]
    lines += [f"| engine, clips per second | {speed['engine_clips_per_second']:.1f} ({speed['ratio']:.2f} times) |"]
    lines += [f"| memory of the main process at a fifth of the clips, MiB | {memory['mebibytes_at_a_fifth']:.0f} |"]
    lines += [f"| its growth from there to the end, MiB | {memory['growth_mebibytes']:.1f} |"]
    lines += [f"| parts after each of {len(kills['parts_after_each'])} kills | {kills['parts_after_each']} |"]
    lines += [f"| resumed: every clip once, equal bit for bit | {'yes' if kills['equal'] else 'NO'} |"]
    lines += [f"| two processes equal one | {'yes' if results['two_processes']['equal'] else 'NO'} |"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
