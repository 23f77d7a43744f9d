"""The benchmark of large indices, in small."""

import pytest

from benchmarks import vector_index
from umt_training.search import search_index


@pytest.mark.parametrize("make", [vector_index.mixture, vector_index.independent])
def test_exact_and_approximate_search_are_measured_against_the_same_neighbours(make, tmp_path, monkeypatch):
    monkeypatch.setattr(search_index, "EXACT_ROWS", 100_000)  # restored afterwards: the benchmark lowers it
    monkeypatch.setattr(vector_index, "CLUSTERS", 20)
    results = vector_index.run(tmp_path, 1500, 64, 5, 3, make)
    assert results["facts"]["rows"] == 1500 and results["facts"]["bytes of the approximate index"] > 1500 * 64 / 8
    exact, _, approximate, _ = results["ways"].values()
    assert exact["recall@10"] == 1 and exact["queries"] == 3
    assert approximate["recall@10"] >= 0.9 and approximate["queries"] == 5
    assert "| exact, of the same kind |" in vector_index.page("title", {"environment": {}, **results})
