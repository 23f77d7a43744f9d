"""Folders of parts: what is written, what is resumed, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from processing_umt import VideoDecodeError
from umt_training.corpus.engine import VideoOutputs
from umt_training.corpus.parts import CorpusFolder
from umt_training.corpus.runs import compute_parts
from umt_training.corpus.tables import vector_table

SETTINGS = {"command": "umt embed", "model": "m", "fingerprint": "0123", "--window": 2.0, "--stride": None}


@pytest.fixture
def videos(tmp_path) -> list[str]:
    (tmp_path / "videos").mkdir()
    paths = [tmp_path / "videos" / f"{number}.mp4" for number in range(11)]
    for path in paths:
        path.write_bytes(b"video")
    return [str(path) for path in paths]


def outputs_of(videos: list[str], parts: list[int]):
    """Video n has n % 3 rows. Number 6 is broken, and number 7 gives NaN."""
    order = np.random.default_rng(len(videos)).permutation(len(videos))
    for index in order.tolist():
        number = int(Path(videos[index]).stem)
        error = VideoDecodeError(videos[index], "empty") if number == 6 else None
        rows = number % 3
        values = np.full((rows, 2), np.nan if number == 7 else number, np.float32)
        yield VideoOutputs(
            index, [(float(row), row + 1.0) for row in range(rows)], values if rows else np.empty((0, 0)), error
        )


def compute(folder: CorpusFolder, videos: list[str], parts: list[int], process=outputs_of) -> list:
    return list(compute_parts(folder, videos, parts, process, vector_table, dimension=2, dtype="float16"))


def expected_rows(videos: list[str]) -> list[tuple]:
    numbers = [number for number in range(len(videos)) if number != 7]
    return [(videos[number], row, row + 1, [number] * 2) for number in numbers for row in range(number % 3)]


def rows_in(folder: Path) -> list[tuple]:
    return [tuple(row.values()) for row in parquet.read_table(folder).to_pylist()]


@given(number=st.integers(1, 50_000), batch_size=st.integers(1, 600), num_processes=st.integers(1, 9))
def test_parts_divide_the_videos_among_processes(number, batch_size, num_processes):
    size = CorpusFolder.size_of_parts(number, batch_size)
    assert size >= batch_size and (size <= 256 or size == batch_size)
    folder = object.__new__(CorpusFolder)
    folder.names, folder.part_size, folder.num_parts = range(number), size, -(-number // size)
    folder._is_done = lambda part: False
    shares = [folder.unfinished(process, num_processes) for process in range(num_processes)]
    videos = [index for share in shares for part in share for index in folder.rows_of(part)]
    assert sorted(videos) == list(range(number))


def test_a_folder_of_parts_is_a_data_set_in_the_order_of_the_videos(videos, tmp_path):
    folder = CorpusFolder(tmp_path / "out", videos, SETTINGS, 4)
    assert (folder.part_size, folder.num_parts) == (4, 3)
    found = compute(folder, videos, folder.unfinished(0, 1))
    assert len(found) == len(videos)
    summary = folder.finish()
    assert rows_in(tmp_path / "out") == expected_rows(videos) and summary.num_rows == len(expected_rows(videos))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["_broken.jsonl", "_corpus.json", *(f"part-{part:06d}.parquet" for part in range(3))]
    assert [(video.video, video.reason) for video in summary.broken] == [
        (videos[6], "empty"),
        (videos[7], "not_finite"),
    ]
    assert summary.reasons == "empty 1, not_finite 1" and "float16" in summary.broken[1].message
    listed = [json.loads(line) for line in (tmp_path / "out" / "_broken.jsonl").read_text().splitlines()]
    assert listed == [video._asdict() for video in summary.broken]
    assert {video.video for video in found if video is not None} == {videos[6], videos[7]}


def test_a_part_of_broken_videos_only_has_the_columns_of_others(videos, tmp_path):
    def all_broken(videos, parts):
        for index, video in enumerate(videos):
            yield VideoOutputs(index, [], np.empty((0, 0), np.float32), VideoDecodeError(video, "missing"))

    folder = CorpusFolder(tmp_path / "out", videos, SETTINGS, 4)
    compute(folder, videos, [0], all_broken)
    compute(folder, videos, [1, 2])
    assert rows_in(tmp_path / "out") == [row for row in expected_rows(videos) if row[0] not in videos[:4]]
    assert len(folder.finish().broken) == 6


@pytest.mark.parametrize("seed", range(5))
def test_an_interrupted_run_computes_the_missing_parts_only(videos, tmp_path, seed):
    generator = np.random.default_rng(seed)
    computed = []

    def interrupted(videos, parts):
        left = int(generator.integers(1, len(videos) + 4))
        for outputs in outputs_of(videos, parts):
            computed.append(videos[outputs.index])
            yield outputs
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    for _ in range(20):
        folder = CorpusFolder(tmp_path / "out", videos, SETTINGS, 2)
        todo = folder.unfinished(0, 1)
        computed.clear()
        try:
            compute(folder, videos, todo, interrupted)
            break
        except KeyboardInterrupt:
            assert {videos.index(video) // 2 for video in computed} <= set(todo)
    assert rows_in(tmp_path / "out") == expected_rows(videos)
    assert CorpusFolder(tmp_path / "out", videos, SETTINGS, 2).unfinished(0, 1) == []


def test_changed_and_damaged_files_and_failed_downloads_are_computed_again(videos, tmp_path):
    folder = CorpusFolder(tmp_path / "out", videos, SETTINGS, 2)
    compute(folder, videos, folder.unfinished(0, 1))
    Path(videos[3]).write_bytes(b"another video")
    part = tmp_path / "out" / "part-000004.parquet"
    part.write_bytes(part.read_bytes()[:-10])

    def failed(videos, parts):
        for index, video in enumerate(videos):
            yield VideoOutputs(index, [], np.empty((0, 0), np.float32), VideoDecodeError(video, "network"))

    compute(folder, videos, [2], failed)
    again = CorpusFolder(tmp_path / "out", videos, SETTINGS, 2)
    assert again.unfinished(0, 1) == [1, 2, 4] and again.unfinished(0, 2) == [2, 4] and again.unfinished(1, 2) == [1]
    with pytest.raises(ValueError, match=r"part-000004\.parquet is missing or damaged; give the same command again"):
        again.finish()


def test_another_batch_size_keeps_the_parts(videos, tmp_path):
    CorpusFolder(tmp_path / "out", videos, SETTINGS, 2)
    assert CorpusFolder(tmp_path / "out", videos, SETTINGS, 5).part_size == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": "umt classify"}, "results of umt embed, not of umt classify"),
        ({"model": "n", "fingerprint": "4567"}, "results of another model, m"),
        ({"fingerprint": "4567"}, "results of m with other weights, another processor or another data type"),
        ({"--window": 3.0}, "results with --window 2.0, not with --window 3.0"),
        ({"--stride": 1.0}, "results without --stride, not with --stride 1.0"),
        ({"--window": None}, "results with --window 2.0, not without --window"),
        ({"--new": 1}, "results without --new, not with --new 1"),
    ],
)
def test_results_of_anything_else_are_refused(videos, tmp_path, changes, message):
    CorpusFolder(tmp_path / "out", videos, SETTINGS, 2)
    with pytest.raises(ValueError) as refused:
        CorpusFolder(tmp_path / "out", videos, SETTINGS | changes, 2)
    expected = f"{tmp_path / 'out'} contains {message}; give another --output, or delete the folder."
    assert str(refused.value) == expected


def test_another_list_and_files_of_others_are_refused(videos, tmp_path):
    CorpusFolder(tmp_path / "out", videos, SETTINGS, 2)
    assert CorpusFolder(tmp_path / "out", videos, SETTINGS | {"model": "./m"}, 2).part_size == 2
    with pytest.raises(ValueError, match="results of another list of 11 videos, not of these 10"):
        CorpusFolder(tmp_path / "out", videos[:-1], SETTINGS, 2)
    with pytest.raises(ValueError, match="results of another list of 11 videos, not of these 11"):
        CorpusFolder(tmp_path / "out", videos[::-1], SETTINGS, 2)
    for content in ("no JSON", "[]", "{}", '{"part_size": 2}'):
        (tmp_path / "out" / "_corpus.json").write_text(content)
        with pytest.raises(ValueError, match=r"_corpus\.json is damaged; give another --output"):
            CorpusFolder(tmp_path / "out", videos, SETTINGS, 2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.parquet").touch()
    with pytest.raises(ValueError, match=r"data\.parquet is not a result of this command"):
        CorpusFolder(tmp_path / "other", videos, SETTINGS, 2)
    with pytest.raises(OSError, match="Not a directory"):
        CorpusFolder(tmp_path / "other" / "data.parquet" / "out", videos, SETTINGS, 2)


def test_results_contain_no_password_and_names_that_are_not_utf8_are_escaped(tmp_path):
    videos = ["https://user:secret@example.org/a.mp4", "b\udcff.mp4"]
    folder = CorpusFolder(tmp_path / "out", videos, SETTINGS, 2)

    def process(videos, parts):
        for index in range(2):
            yield VideoOutputs(
                index, [(0.0, 1.0)], np.ones((1, 2), np.float32), VideoDecodeError(videos[index], "decode")
            )

    compute(folder, videos, [0], process)
    folder.finish()
    assert [row[0] for row in rows_in(tmp_path / "out")] == ["https://example.org/a.mp4", "b\\udcff.mp4"]
    for path in (tmp_path / "out").iterdir():
        assert b"secret" not in path.read_bytes()
