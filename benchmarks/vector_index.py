"""The index of `umt search` with many vectors: exact search beside the approximate index, in one run.

Vectors are unit vectors of a mixture of clusters of low rank, as embeddings of videos are; `--structureless` takes
independent ones, the hardest case for an approximate index. Queries are not among the vectors. Recall@10 is the
fraction of the ten nearest windows of an exact search, computed by NumPy, that a search finds. Half of the queries are
vectors of the same kind; the other half are moved towards one direction, like texts, which are not where videos are.

    python -m benchmarks.vector_index --rows 1000000
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from umt_training.search import search_index
from umt_training.search.search_index import IndexModel, SearchIndex

from .harness import RESULTS, environment, write

CLUSTERS, RANK, SPREAD, NOISE = 2000, 32, 0.5, 0.01
TOP_K = 10
WINDOWS_PER_VIDEO = 360  # an hour
BATCH = 50_000


def mixture(number: int, dimension: int, seed: int) -> np.ndarray:
    """Unit vectors, float32 `(number, dimension)`, of clusters that have the same centres for every seed."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    centres = unit(shared.normal(size=(CLUSTERS, dimension)).astype(np.float32))
    bases = shared.normal(size=(CLUSTERS, RANK, dimension)).astype(np.float32) / np.sqrt(dimension * RANK)
    clusters = np.sort(own.integers(CLUSTERS, size=number))
    vectors = np.empty((number, dimension), np.float32)
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        inside = own.normal(size=(len(rows), RANK)).astype(np.float32) @ bases[cluster]
        vectors[rows] = centres[cluster] + SPREAD * inside
    for first in range(0, number, BATCH):
        batch = vectors[first : first + BATCH]
        batch += NOISE * own.standard_normal(batch.shape, dtype=np.float32)
        batch[:] = unit(batch)
    return vectors[own.permutation(number)]


def independent(number: int, dimension: int, seed: int) -> np.ndarray:
    """Unit vectors of random directions."""
    return unit(np.random.default_rng(seed).standard_normal((number, dimension), dtype=np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def text_like(queries: np.ndarray, seed: int) -> np.ndarray:
    """Queries that are moved by as much as they are long towards one direction."""
    direction = unit(np.random.default_rng(seed).standard_normal(queries.shape[1], dtype=np.float32))
    return unit(queries + direction)


def nearest_rows(vectors: np.ndarray, queries: np.ndarray) -> list[set[int]]:
    """The rows of the ten nearest vectors of each query."""
    found = []
    for first in range(0, len(queries), 8):
        similarities = queries[first : first + 8] @ vectors.T
        found += [set(rows) for rows in np.argpartition(-similarities, TOP_K, axis=1)[:, :TOP_K].tolist()]
    return found


def row_of(moment: dict) -> int:
    return int(Path(moment["video"]).stem) * WINDOWS_PER_VIDEO + round(moment["start"] / 10)


def fill(index: SearchIndex, vectors: np.ndarray) -> None:
    for first in range(0, len(vectors), BATCH):
        index.add(
            [
                {
                    "video": f"{row // WINDOWS_PER_VIDEO:06}.mp4",
                    "size": 1,
                    "modified": 1,
                    "start": 10.0 * (row % WINDOWS_PER_VIDEO),
                    "end": 10.0 * (row % WINDOWS_PER_VIDEO) + 10,
                    "vector": vectors[row],
                }
                for row in range(first, min(first + BATCH, len(vectors)))
            ],
            {},
        )


def measure(
    find: Callable[[np.ndarray], list[dict]], queries: np.ndarray, expected: list[set[int]]
) -> dict[str, float]:
    times, found = [], []
    for query in queries:
        started = time.perf_counter()
        moments = find(query)
        times.append(1000 * (time.perf_counter() - started))
        found.append({row_of(moment) for moment in moments})
    recall = statistics.mean(len(rows & nearest) / TOP_K for rows, nearest in zip(found, expected, strict=True))
    return {
        "median ms": statistics.median(times),
        "99th percentile ms": float(np.quantile(times, 0.99)),
        "recall@10": recall,
        "queries": len(queries),
    }


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(folder: Path, rows: int, dimension: int, num_queries: int, num_exact: int, make: Callable) -> dict:
    vectors = make(rows, dimension, 1)
    queries = make(num_queries, dimension, 2)
    queries = {"of the same kind": queries, "text-like": text_like(queries, 3)}
    expected = {name: nearest_rows(vectors, some) for name, some in queries.items()}
    (folder / "videos").mkdir()
    index = SearchIndex.create(folder / "index", folder / "videos", IndexModel("none", None, "0"), 10.0, dimension)
    started = time.perf_counter()
    fill(index, vectors)
    facts = {"rows": rows, "dimension": dimension, "seconds to write": time.perf_counter() - started}
    del vectors
    facts["bytes without approximate index"] = size_of(folder / "index")
    first = queries["of the same kind"][0]
    started = time.perf_counter()
    index.nearest(first, TOP_K)  # checks all vectors once
    facts["seconds of the first exact search"] = time.perf_counter() - started
    ways = {}
    for name, some in queries.items():
        find = lambda query: index.nearest(query, TOP_K)  # noqa: E731
        ways[f"exact, {name}"] = measure(find, some[:num_exact], expected[name][:num_exact])
    started = time.perf_counter()
    search_index.EXACT_ROWS = min(search_index.EXACT_ROWS, rows)
    index.optimize()
    facts["seconds to build the approximate index"] = time.perf_counter() - started
    facts["bytes of the approximate index"] = size_of(folder / "index" / f"{search_index.TABLE}.lance" / "_indices")
    started = time.perf_counter()
    SearchIndex(folder / "index").nearest(first, TOP_K)
    facts["seconds to open and search"] = time.perf_counter() - started
    for name, some in queries.items():
        ways[f"approximate, {name}"] = measure(lambda query: index.nearest(query, TOP_K), some, expected[name])
    return {"facts": facts, "ways": ways}


def page(title: str, results: dict) -> str:
    lines = [f"# {title}", "", ", ".join(f"{name} {value}" for name, value in results["environment"].items()), ""]
    lines += ["| | |", "|---|---|"]
    lines += [
        f"| {name} | {value:,.1f} |" if isinstance(value, float) else f"| {name} | {value:,} |"
        for name, value in results["facts"].items()
    ]
    columns = list(next(iter(results["ways"].values())))
    lines += ["", f"| search | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, way in results["ways"].items():
        cells = [f"{value:.3f}" if column == "recall@10" else f"{value:,.0f}" for column, value in way.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--exact-queries", type=int, default=20, help="queries of which the exact search is timed")
    parser.add_argument("--structureless", action="store_true", help="independent vectors instead of a mixture")
    parser.add_argument("--folder", type=Path, help="where the index is written (default: a temporary folder)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    make = independent if options.structureless else mixture
    try:
        results = run(folder, options.rows, options.dimension, options.queries, options.exact_queries, make)
    finally:
        shutil.rmtree(folder)
    found = environment(torch.device("cpu")) | {"lancedb": metadata.version("lancedb")}
    results = {"environment": found, **results}
    kind = "structureless" if options.structureless else "mixture"
    title = f"Search index, {options.rows:,} {kind} vectors of dimension {options.dimension}"
    write(options.output, f"vector_index_{kind}", results, page(title, results))
    return results


if __name__ == "__main__":
    main()
