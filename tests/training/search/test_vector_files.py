"""Files of vectors: rows as they come, the same files as written at once, nothing after an error."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from pyarrow import parquet

from umt_training.search import vector_files
from umt_training.search.vector_files import require_writable_vectors, write_vectors

DIMENSION = 5


def rows_of(first: int, last: int) -> list[dict]:
    return [{"video": f"video {row} ä.mp4", "start": row / 2, "end": row + 1.0} for row in range(first, last)]


def batches_of(sizes: list[int], vectors: np.ndarray):
    first = 0
    for size in sizes:
        yield rows_of(first, first + size), vectors[first : first + size]
        first += size


@pytest.mark.parametrize("sizes", [[1], [3], [1, 1, 1], [4, 4, 1], [2, 3, 4, 5, 6]])
@pytest.mark.parametrize("group", [1, 3, 8192])
def test_both_forms_contain_all_rows(tmp_path, monkeypatch, sizes, group):
    monkeypatch.setattr(vector_files, "_ROWS_PER_GROUP", group)
    number = sum(sizes)
    vectors = np.random.default_rng(0).normal(size=(number, DIMENSION)).astype(np.float32)
    for name in ("vectors.npy", "vectors.parquet"):
        assert write_vectors(tmp_path / name, batches_of(sizes, vectors)) == (number, DIMENSION)
    np.save(tmp_path / "expected.npy", vectors)
    assert (tmp_path / "vectors.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    expected = json.dumps(rows_of(0, number), indent=1, ensure_ascii=False)
    assert (tmp_path / "vectors.json").read_text(encoding="utf-8") == expected
    table = parquet.read_table(tmp_path / "vectors.parquet")
    assert table.select(["video", "start", "end"]).to_pylist() == rows_of(0, number)
    assert table["embedding"].to_pylist() == vectors.tolist()
    assert table.schema.field("embedding").type.list_size == DIMENSION
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy", ".json", ".parquet"}


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    row = {"video": os.fsdecode(b"\xff.mp4"), "start": 0.0, "end": 1.0}
    for name in ("vectors.npy", "vectors.parquet"):
        write_vectors(tmp_path / name, iter([([row], np.ones((1, 2), np.float32))]))
    assert json.loads((tmp_path / "vectors.json").read_text())[0]["video"] == "\udcff.mp4"
    assert parquet.read_table(tmp_path / "vectors.parquet")["video"].to_pylist() == ["\\udcff.mp4"]


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.parquet"])
def test_after_an_error_the_files_are_those_of_before(tmp_path, name):
    def broken(vectors):
        yield from batches_of([2], vectors)
        raise ValueError("not finite")

    before = np.zeros((1, DIMENSION), np.float32)
    write_vectors(tmp_path / name, batches_of([1], before))
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="not finite"):
        write_vectors(tmp_path / name, broken(np.ones((2, DIMENSION), np.float32)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.parquet"])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, name, monkeypatch):
    monkeypatch.setattr(vector_files, "_ROWS_PER_GROUP", 100)
    vectors = np.ones((50, 256), np.float32)

    def peak(number: int) -> int:
        tracemalloc.start()
        write_vectors(tmp_path / name, ((rows_of(0, 50), vectors) for _ in range(number)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(5)
    assert peak(200) < 2 * peak(20)


def test_other_extensions_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file name that ends in \.npy or \.parquet"):
        require_writable_vectors(tmp_path / "vectors.csv")
