"""Two processes equal one, in every evaluation task, every trainer and every command on many videos, and each has its
part of the videos.

One launch runs all commands (`tests/helpers/tiny_commands.py`), because starting Python costs more than they do. Equal
results alone would not do: processes that each do all of the work have them too.
"""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import evaluate
import numpy as np
import pytest
import tiny_commands
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from huggingface_hub import constants
from pyarrow import parquet
from safetensors.torch import load_file
from tiny_commands import (
    CORPORA,
    DETECTIONS,
    EVALUATIONS,
    LAST,
    NUM_EVALUATED,
    NUM_SEARCHED,
    NUM_TRAINED,
    SEARCHES,
    STEPS,
    TRAININGS,
    corpus_command,
    detection_command,
    evaluation_command,
    output_of,
    run_command,
    search_command,
    training_command,
)
from warm_python import launch

from umt_training.processes import join_processes
from umt_training.search.search_index import SearchIndex

PER_STEP = 4


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return tiny_commands.write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def two(parts, tmp_path_factory) -> Path:
    """The folder of the results of two processes."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(parts / "search", folder / "search")
    done = launch(tiny_commands.__file__, str(parts), str(folder))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    (folder / "stdout.txt").write_text(done.stdout)
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """`evaluate` creates a folder for every metric, and `umt search` a key; the tests use temporary ones."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


def seen_by_both(two: Path, name: str, code: int = 0) -> list[list]:
    """The videos of each process, of which the main one returned `code`."""
    results = [json.loads((two / f"{name}-{process}.json").read_text()) for process in range(2)]
    assert [(result["code"], result["processes"]) for result in results] == [(code, 2), (0, 2)]
    return [result["seen"] for result in results]


@pytest.mark.parametrize("task", EVALUATIONS)
def test_an_evaluation_is_shared_and_equals_that_of_one_process(task, parts, two, tmp_path):
    alone = run_command(evaluation_command(task, parts), tmp_path)
    assert alone["code"] == 0 and Counter(alone["seen"]) == Counter(f"{n}.mp4" for n in range(NUM_EVALUATED))
    first, second = seen_by_both(two, f"evaluate-{task}")
    assert len(first) == 3 and len(second) == 2 and Counter(first + second) == Counter(alone["seen"])
    folder = two / f"evaluate-{task}"
    results, expected = (json.loads((path / "results.json").read_text()) for path in (folder, tmp_path))
    assert results["metrics"] == expected["metrics"]
    assert results["dataset"] == expected["dataset"] and results["dataset"]["num_skipped"] == 1
    tables = sorted(path.name for path in tmp_path.glob("*.csv"))
    assert bool(tables) == (task != "retrieval")
    for name in tables:
        assert table_of(folder / name) == table_of(tmp_path / name)


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_shared_and_equals_that_of_one_process(name, parts, two, tmp_path):
    """Bit for bit. One process resumes what two began."""
    alone = run_command(corpus_command(name, parts), tmp_path / "out")
    assert alone["code"] == 0 and Counter(alone["seen"]) == Counter(f"{n}.mp4" for n in range(NUM_TRAINED))
    first, second = seen_by_both(two, f"corpus-{name}")
    assert len(first) == 6 and len(second) == 4 and Counter(first + second) == Counter(alone["seen"])
    table = parquet.read_table(tmp_path / "out")
    assert len(table) == NUM_TRAINED and parquet.read_table(two / f"corpus-{name}").equals(table)

    shutil.copytree(two / f"corpus-{name}", tmp_path / "half")
    (tmp_path / "half" / "part-000001.parquet").unlink()
    resumed = run_command(corpus_command(name, parts), tmp_path / "half")
    assert resumed["code"] == 0 and len(resumed["seen"]) == 3
    assert parquet.read_table(tmp_path / "half").equals(table)


def lines_of(two: Path, stream: str, part: str) -> list[str]:
    """The lines of two processes that contain a text."""
    return [line for line in (two / f"{stream}.txt").read_text().splitlines() if part in line]


@pytest.mark.parametrize("name", DETECTIONS)
def test_a_detection_is_shared_and_equals_that_of_one_process(name, parts, two, tmp_path, capsys):
    """Every file byte for byte, and every line. One process skips what two have done."""
    alone = run_command(detection_command(name, parts), tmp_path / "out")
    printed = capsys.readouterr()
    assert alone["code"] == 1 and Counter(alone["seen"]) == Counter(f"{n}.mp4" for n in range(NUM_SEARCHED))
    first, second = seen_by_both(two, name, code=1)
    assert len(first) == 3 and len(second) == 2 and Counter(first + second) == Counter(alone["seen"])
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {path.name: path.read_bytes() for path in (two / name).iterdir()} == files
    assert set(files) >= {"metadata.jsonl" if name == "detect_boxes_only" else "index.html"}

    expected = printed.out.replace(str(tmp_path / "out"), str(two / name)).splitlines()
    assert len(expected) == NUM_SEARCHED
    for line in expected:
        assert lines_of(two, "stdout", line) == [line]
    (broken,) = printed.err.splitlines()
    assert lines_of(two, "stderr", broken) == [broken] * len(DETECTIONS)

    if name == "detect":
        shutil.copytree(two / name, tmp_path / "again")
        assert run_command(detection_command(name, parts), tmp_path / "again") == {"code": 1, "seen": ["3.mp4"]}
        assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files


@pytest.mark.parametrize("name", SEARCHES)
def test_an_index_is_shared_and_equals_that_of_one_process(name, parts, two, tmp_path, capsys):
    """With a commit for each video. A changed video is indexed again, and a deleted one removed."""
    if name == "search":
        shutil.copytree(parts / "search", tmp_path / "search")
    alone = run_command(search_command(parts), output_of(name, tmp_path))
    printed = capsys.readouterr()
    assert alone["code"] == 0 and set(alone["seen"]) == {f"{n}.mp4" for n in range(NUM_SEARCHED)}
    first, second = seen_by_both(two, name)
    assert Counter(first + second) == Counter(alone["seen"]) and set(second) == {"1.mp4", "3.mp4"}
    index, expected = (SearchIndex(output_of(name, folder), parts / "searched") for folder in (two, tmp_path))
    assert index.known() == expected.known() and index.known().keys() == set(alone["seen"])
    assert index.broken() == expected.broken() and list(index.broken()) == ["3.mp4"]
    rows, expected_rows = (sorted_rows(index), sorted_rows(expected))
    assert [row[:3] for row in rows] == [row[:3] for row in expected_rows] and len(rows) == 8
    np.testing.assert_allclose([row[3] for row in rows], [row[3] for row in expected_rows], atol=1e-5)

    for line in printed.out.splitlines():
        assert lines_of(two, "stdout", line) == [line] * (len(SEARCHES) + 1)  # and without an update
    broken, summary = printed.err.splitlines()
    assert lines_of(two, "stderr", broken) == [broken] * len(SEARCHES)
    line = summary.replace(output_of(name, tmp_path), output_of(name, two))
    assert line.startswith("indexed 5 videos, 1 of them broken") and lines_of(two, "stderr", line) == [line]


def sorted_rows(index: SearchIndex) -> list[tuple]:
    rows = index.table.search().where("vector IS NOT NULL").to_arrow().to_pylist()
    return sorted((row["video"], row["start"], row["end"], row["vector"]) for row in rows)


def table_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table without probabilities, which are rounded."""
    with path.open(newline="") as file:
        return [
            {column: cell for column, cell in row.items() if "probability" not in column}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_shared_and_equals_that_of_one_process(name, parts, two, tmp_path):
    """The clips of each step, and the final weights. A stream has another order in two processes, so there it is the
    clips of each epoch."""
    alone = run_command(training_command(name, parts), tmp_path / "alone")
    first, second = seen_by_both(two, f"train-{name}")
    assert alone["code"] == 0 and len(first) == len(second) == len(alone["seen"]) / 2
    is_stream = name.endswith("_stream")
    num_parts = STEPS // 2 if is_stream else STEPS
    per_part = len(first) // num_parts
    for part in range(num_parts):
        mine = slice(part * per_part, (part + 1) * per_part)
        own, other = first[mine], second[mine]
        assert not set(own) & set(other)
        assert sorted(own + other) == sorted(alone["seen"][2 * mine.start : 2 * mine.stop])
    if not is_stream:
        assert_same_weights(two / f"train-{name}", tmp_path / "alone")


@pytest.mark.parametrize("name", TRAININGS)
def test_one_process_resumes_what_two_began_with_the_same_batch_only(name, parts, two, tmp_path, capsys):
    """With the batch of each device the same, one process would take twice as many steps. With the batch of all, it
    takes the steps and the clips that are left, also if two micro-batches replace two processes."""
    folder = tmp_path / "run"
    shutil.copytree(two / f"train-{name}" / f"checkpoint-{LAST}", folder / f"checkpoint-{LAST}")
    refused = run_command(training_command(name, parts, processes=2), folder)
    assert (refused["code"], refused["seen"]) == (1, [])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    views = 2 if name == "classification" else 1
    assert f"`effective_batch_size` {4 * views} (now {2 * views})" in message and "number of processes" in message

    resumed = run_command(training_command(name, parts, accumulation=2 if TRAININGS[name] else 1), folder)
    printed = capsys.readouterr().out
    assert resumed["code"] == 0 and f"step {STEPS}/{STEPS}, epoch 2.00" in printed
    assert len(resumed["seen"]) == (STEPS - LAST) * PER_STEP * views
    is_stream = name.endswith("_stream")
    assert ("the stream was read by 2 readers (processes x workers) and is by 1 now" in printed) == is_stream
    if not is_stream:
        first, second = seen_by_both(two, f"train-{name}")
        left = len(resumed["seen"]) // 2
        assert sorted(resumed["seen"]) == sorted(first[-left:] + second[-left:])
        assert_same_weights(folder, two / f"train-{name}")


def assert_same_weights(folder: Path, other: Path) -> None:
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, other))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)


def test_two_processes_print_and_write_once(two):
    lines = (two / "stdout.txt").read_text().splitlines()
    for line in ("written to", "settings: batch 2 processes", "done in"):
        number = sum(text.startswith(line) for text in lines)
        assert number == (len(EVALUATIONS) if line == "written to" else len(TRAININGS)), line
    assert "Traceback" not in (two / "stderr.txt").read_text()


def test_processes_that_have_not_joined_are_refused(monkeypatch):
    """Such as on a CPU without `cpu=True`; each would do the work of all."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="started 2 processes, but this one has joined 1"):
        join_processes(torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join_processes(torch.device("cpu")).num_processes == 1
