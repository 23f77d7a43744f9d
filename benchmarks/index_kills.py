"""Kills `update` of a search index at random moments, and checks after each kill that nothing is lost or doubled.

Between kills some videos are changed, removed and added, so that adding, removing and merging are interrupted. After
a kill the index must have every window of each of its videos once. In the end it must have the rows of an index that
was never interrupted. LanceDB is loaded only in the processes that are forked.

    python -m benchmarks.index_kills --kills 20
"""

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_umt import UMTVideoTextConfig, UMTVideoTextModel
from processing_umt import UMTProcessor
from umt_training.search.window_vectors import window_vectors  # noqa: F401 (loaded before the forks)

from .harness import RESULTS, environment, write
from .robustness_cases import result_in_fork
from .robustness_parts.noise import write_noise

WINDOW, DIMENSION = 0.5, 16
FORK = multiprocessing.get_context("fork")


def tiny_model() -> UMTVideoTextModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    return UMTVideoTextModel(
        UMTVideoTextConfig(
            vision_config=sizes | {"image_size": 32, "num_frames": 2, "num_aligned_layers": 1},
            text_config={"vocab_size": 99, "max_position_embeddings": 8, "fusion_layer": 1, **sizes},
            projection_dim=DIMENSION,
        )
    ).eval()


def start_update(uri: Path, videos: Path, model: UMTVideoTextModel, processor: UMTProcessor) -> tuple[Any, Connection]:
    """A forked process that updates the index, and the end of a pipe that receives "ready" and "done"."""
    own, other = FORK.Pipe()
    process = FORK.Process(target=update_index, args=(other, uri, videos, model, processor))
    process.start()
    other.close()
    return process, own


def update_index(pipe: Connection, uri: Path, videos: Path, model: UMTVideoTextModel, processor: UMTProcessor) -> None:
    from umt_training.search import indexing
    from umt_training.search.search_index import IndexModel, SearchIndex

    indexing._COMMIT_SECONDS = indexing._COMMIT_SHARE = 0.0
    pipe.send("ready")
    if not SearchIndex.exists(uri):
        SearchIndex.create(uri, videos, IndexModel("none", None, "0"), WINDOW, DIMENSION)
    indexing.update(SearchIndex(uri, videos), model, processor, batch_size=1)
    pipe.send("done")


def read_rows(uri: Path) -> list[dict]:
    from umt_training.search.search_index import SearchIndex

    return SearchIndex(uri).table.to_arrow().to_pylist() if SearchIndex.exists(uri) else []


def checked_rows(uri: Path, num_windows: int) -> list[dict]:
    """The rows of an index.

    Raises:
        RuntimeError: a video does not have each of its windows once.
    """
    rows = result_in_fork(read_rows, uri)
    keys = Counter((row["video"], row["start"]) for row in rows)
    counts = Counter(row["video"] for row in rows)
    if max(keys.values(), default=1) > 1 or set(counts.values()) - {num_windows}:
        raise RuntimeError(f"windows of the videos: {counts}")
    return sorted(rows, key=lambda row: (row["video"], row["start"]))


def change_some(videos: Path, generator: random.Random, number: int) -> None:
    """Changes, removes and adds a few videos."""
    files = sorted(videos.iterdir())
    for file in generator.sample(files, 12):
        write_video(file, generator.randrange(1 << 30))
    for file in generator.sample(files, 4):
        file.unlink()
    for index in range(4):
        write_video(videos / f"new-{number}-{index}.mp4", generator.randrange(1 << 30))


def write_video(path: Path, seed: int) -> None:
    write_noise(path, seed, 12, 32, 48)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a forked process has none of PyTorch's threads
    generator, moments, sizes = random.Random(options.seed), [], []
    with tempfile.TemporaryDirectory() as folder:
        videos, uri = Path(folder, "videos"), Path(folder, "index")
        for number in range(options.videos):
            write_video(videos / f"{number:04}.mp4", number)
        model, processor = tiny_model(), tiny_processor(folder)
        started = time.monotonic()
        run_to_end(Path(folder, "first"), videos, model, processor)
        seconds = time.monotonic() - started
        num_windows = len({row["start"] for row in result_in_fork(read_rows, Path(folder, "first"))})
        while len(moments) < options.kills:
            process, pipe = start_update(uri, videos, model, processor)
            pipe.recv()
            moment = generator.uniform(0, seconds / 10)
            if not pipe.poll(moment):
                os.kill(process.pid, signal.SIGKILL)
                moments.append(moment)
            process.join()
            sizes.append(len(checked_rows(uri, num_windows)) // num_windows)
            change_some(videos, generator, len(moments))
        run_to_end(uri, videos, model, processor)
        run_to_end(Path(folder, "expected"), videos, model, processor)
        rows = checked_rows(uri, num_windows)
        require_equal(rows, checked_rows(Path(folder, "expected"), num_windows))
    results = {
        "environment": environment(torch.device("cpu")) | {"lancedb": metadata.version("lancedb")},
        "seconds without a kill": seconds,
        "seconds from the start of the update to each kill": moments,
        "videos in the index after each kill": sizes,
        "rows in the end": len(rows),
        "rows lost, doubled or different": 0,
    }
    facts = ", ".join(f"{name} {value}" for name, value in results["environment"].items())
    lines = [f"# {options.kills} kills of the update of a search index", "", facts, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {rounded(value)} |" for name, value in results.items() if name != "environment"]
    write(options.output, "index_kills", results, "\n".join(lines) + "\n")
    return results


def rounded(value: object) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{item:.2f}" if isinstance(item, float) else str(item) for item in values)


def tiny_processor(folder: str) -> UMTProcessor:
    vocabulary = Path(folder, "vocab.txt")
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]))
    return UMTProcessor.from_bert(vocabulary, image_size=32, num_frames=2, max_text_length=8)


def run_to_end(uri: Path, videos: Path, model: UMTVideoTextModel, processor: UMTProcessor) -> None:
    process, pipe = start_update(uri, videos, model, processor)
    if (pipe.recv(), pipe.recv()) != ("ready", "done"):
        raise RuntimeError("the update did not end")
    process.join()


def require_equal(rows: list[dict], expected: list[dict]) -> None:
    vectors, expected_vectors = (np.array([row.pop("vector") for row in some]) for some in (rows, expected))
    if rows != expected or not np.allclose(vectors, expected_vectors, atol=1e-5):
        raise RuntimeError("the index differs from one that was never interrupted")


if __name__ == "__main__":
    main()
