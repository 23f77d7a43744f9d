"""Commands on 2,000 files, a hundredth of them broken: every file is in the result, and memory and descriptors are
those of a tenth of the files. The time per file is measured."""

import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..robustness_cases import Case, Wrong, result_in_fork
from .commands import CLASSES, NOISE, Corpus, start
from .noise import write_noise

NUM_FILES = 2000
BROKEN_SHARE = 100  # one of so many files
# from a tenth of the files to all; the batches that a worker has read ahead are in shared memory, with descriptors
MEMORY_GROWTH, DESCRIPTOR_GROWTH = 48 << 20, 16
_DISTINCT = 8


class Load(NamedTuple):
    """A command on a folder of files.

    Args:
        arguments: its words, for a corpus, the folder and the output.
        code: its exit code where videos are broken.
        counts: numbers of good and broken files in the result, from the output and what was printed.
    """

    arguments: Callable[[Corpus, Path, Path], list[str]]
    code: int
    counts: Callable[[Path, str], tuple[int, int]]


def classified(output: Path, log: str) -> tuple[int, int]:
    results = json.loads(log[log.index("[\n") : log.rindex("]") + 1])
    same_for_copies((entry["video"], entry["predictions"]) for entry in results if "predictions" in entry)
    return sum("predictions" in entry for entry in results), sum("error" in entry for entry in results)


def embedded(output: Path, log: str) -> tuple[int, int]:
    vectors, rows = np.load(output / "vectors.npy"), json.loads((output / "vectors.json").read_text())
    same_for_copies((row["video"], vector.round(4).tolist()) for row, vector in zip(rows, vectors, strict=True))
    return len(vectors), log.count("it is not in a supported video format")


def indexed(output: Path, log: str) -> tuple[int, int]:
    return result_in_fork(videos_of_index, output)


def videos_of_index(output: Path) -> tuple[int, int]:
    from umt_training.search.search_index import SearchIndex  # only in the fork: it loads LanceDB

    index = SearchIndex(output)
    num_broken = len(index.broken())
    return len(index.known()) - num_broken, num_broken


def evaluated(output: Path, log: str) -> tuple[int, int]:
    dataset = json.loads((output / "results.json").read_text())["dataset"]
    return dataset["num_scored"], dataset["num_skipped"]


def checked(output: Path, log: str) -> tuple[int, int]:
    num_broken = len((output / "report.csv").read_text().splitlines()) - 1
    return int(log.rsplit(" videos", 1)[0].rsplit(maxsplit=1)[-1].replace(",", "")) - num_broken, num_broken


def trained(output: Path, log: str) -> tuple[int, int]:
    """Clips of an epoch: a broken video is replaced by another one."""
    state = json.loads((output / "trainer_state.json").read_text())
    lines = (output / "broken_videos" / "epoch-1.jsonl").read_text().splitlines()
    num_broken = sum(json.loads(line)["attempts"] for line in lines)
    return state["global_step"] * 20 - num_broken, num_broken


def same_for_copies(results: object) -> None:
    """The file number n is a copy of the video n modulo `_DISTINCT`."""
    first = {}
    for video, result in results:
        if first.setdefault(int(Path(video).stem) % _DISTINCT, result) != result:
            raise Wrong(f"{video} has another result than its copy")


LOADS = {
    "classify": Load(
        lambda corpus, videos, output: ["classify", str(videos), "--model", str(corpus.classifier), "--json",
                                        "--device", "cpu"],
        1, classified,
    ),
    "embed": Load(
        lambda corpus, videos, output: ["embed", str(videos), "--model", str(corpus.classifier), "--device", "cpu",
                                        "--output", str(output / "vectors.npy")],
        1, embedded,
    ),
    "search": Load(
        lambda corpus, videos, output: ["search", "a b", str(videos), "--model", str(corpus.retriever), "--device",
                                        "cpu", "--index", str(output), "--num-workers", "1"],
        0, indexed,
    ),
    "evaluate": Load(
        lambda corpus, videos, output: ["evaluate", "--model", str(corpus.classifier), "--data", str(videos),
                                        "--device", "cpu", "--num-workers", "1", "--output", str(output)],
        0, evaluated,
    ),
    "check-videos": Load(
        lambda corpus, videos, output: ["check-videos", str(videos), "--workers", "1", "--output",
                                        str(output / "report.csv")],
        1, checked,
    ),
    "finetune": Load(
        lambda corpus, videos, output: ["finetune", "--config", corpus.recipe("finetune"), *one_epoch(videos, output)],
        0, trained,
    ),
    "pretrain": Load(
        lambda corpus, videos, output: ["pretrain", "--config", corpus.recipe("pretrain"), *one_epoch(videos, output)],
        0, trained,
    ),
}  # fmt: skip


def one_epoch(videos: Path, output: Path) -> list[str]:
    return ["--data", str(videos), "--output-dir", str(output), "--num-train-epochs", "1", "--warmup-epochs", "0",
            "--per-device-train-batch-size", "20", "--save-steps", "1000", "--logging-steps", "10",
            "--dataloader-num-workers", "1"]  # fmt: skip


def build(folder: Path, seed: int) -> list[Case]:
    corpus = Corpus(folder).make(num_videos=2)
    cases = []
    for name, load in LOADS.items():
        run = partial(under_load, name, load, corpus)
        cases.append(Case(name, f"{NUM_FILES:,} files", run, 900))
    return cases


def under_load(name: str, load: Load, corpus: Corpus, work: Path) -> str:
    few, many = NUM_FILES // 10, NUM_FILES
    small = measure(name, load, corpus, work / "few", few)
    large = measure(name, load, corpus, work / "many", many)
    if large.memory - small.memory > MEMORY_GROWTH:
        raise MemoryError(f"{(large.memory - small.memory) >> 20} MiB more for {many} files than for {few}")
    if large.descriptors - small.descriptors > DESCRIPTOR_GROWTH:
        raise OSError(f"{large.descriptors} descriptors for {many} files, {small.descriptors} for {few}")
    milliseconds = 1000 * (large.seconds - small.seconds) / (many - few)
    growth, more = (large.memory - small.memory) >> 20, large.descriptors - small.descriptors
    return (
        f"right: {milliseconds:.1f} ms per file, {large.memory >> 20} MiB ({growth:+} MiB), {large.descriptors} "
        f"descriptors ({more:+})"
    )


class Measured(NamedTuple):
    seconds: float
    memory: int
    """Peak resident bytes of the command's process."""
    descriptors: int
    """Largest number of open files of the command's process."""


def measure(name: str, load: Load, corpus: Corpus, work: Path, number: int) -> Measured:
    """Runs a command on `number` files and checks that each of them is counted."""
    videos = make_files(work / "videos", number)
    output, log = work / "output", work / "log.txt"
    started, descriptors = time.monotonic(), 0
    process = start(load.arguments(corpus, videos, output), log)
    while True:
        finished, status, usage = os.wait4(process, os.WNOHANG)
        if finished:
            break
        descriptors = max(descriptors, num_descriptors(process))
        time.sleep(0.05)
    seconds, text = time.monotonic() - started, log.read_text()
    if os.waitstatus_to_exitcode(status) != load.code:
        raise RuntimeError(f"exit code {os.waitstatus_to_exitcode(status)}: {text[-1000:]}")
    num_broken = len(range(1, number, BROKEN_SHARE))
    expected = number - num_broken, num_broken
    counts = load.counts(output, text)
    # in training the batches are full, so that broken videos are attempts besides those of the clips
    if counts != expected and not (load.counts is trained and counts[1] >= expected[1] and sum(counts) == number):
        raise Wrong(f"{counts} good and broken videos of {expected}")
    return Measured(seconds, 1024 * usage.ru_maxrss, descriptors)


def make_files(folder: Path, number: int) -> Path:
    """`number` files in two class folders, of which every hundredth is text."""
    for distinct in range(_DISTINCT):
        write_noise(folder.parent / "distinct" / f"{distinct}.mp4", distinct, *NOISE)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for index in range(number):
        path = folder / CLASSES[index % 2] / f"{index}.mp4"
        if index % BROKEN_SHARE == 1:
            path.write_bytes(b"no video")
        else:
            shutil.copy(folder.parent / "distinct" / f"{index % _DISTINCT}.mp4", path)
    return folder


def num_descriptors(process: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except OSError:  # it has just ended
        return 0
