"""The outputs of many videos: order, batches, broken videos."""

import collections
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from processing_umt import VideoDecodeError
from umt_training.corpus.decoding import rows_per_message
from umt_training.corpus.engine import process_videos
from umt_training.corpus.runs import in_order


class Video(str):
    """The name of a video with the number of views of each row, and the reason why it is broken."""

    rows: tuple[int, ...]
    reason: str | None
    size: int

    def __new__(cls, name: str, rows: Sequence[int], reason: str | None = None, size: int = 2):
        video = super().__new__(cls, name)
        video.rows, video.reason, video.size = tuple(rows), reason, size
        return video

    def __reduce__(self):
        return Video, (str(self), self.rows, self.reason, self.size)


def read(video: Video):
    """View v of row r contains 100 * video + 10 * r + v."""
    for row, num_views in enumerate(video.rows):
        values = 100 * int(video) + 10 * row + torch.arange(num_views, dtype=torch.float32)
        yield (float(row), row + 1.0), values[:, None, None, None, None].expand(-1, 1, 3, video.size, video.size)
    if video.reason is not None:
        raise VideoDecodeError(video, video.reason)


class Model(nn.Module):
    """Returns the value of each clip, and records the sizes of the batches."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        super().__init__()
        self.batches: list[list[float]] = []

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        values = clips[:, 0, 0, 0, :1]
        self.batches.append(values[:, 0].tolist())
        return values


def run(videos: list[Video], batch_size: int, num_workers: int = 0, parts: list[int] | None = None, rows: int = 1):
    model = Model()
    options = {"batch_size": batch_size, "num_workers": num_workers, "parts": parts, "rows_per_message": rows}
    return list(process_videos(videos, read, lambda model, clips: model(clips), model, **options)), model.batches


def check(videos: list[Video], results: list) -> None:
    assert sorted(result.index for result in results) == list(range(len(videos)))
    for result in results:
        video = videos[result.index]
        assert result.spans == [(row, row + 1) for row in range(len(video.rows))]
        expected = [100 * result.index + 10 * row + (num - 1) / 2 for row, num in enumerate(video.rows)]
        np.testing.assert_allclose(result.outputs.reshape(-1), expected, rtol=1e-6)
        assert getattr(result.error, "reason", None) == video.reason
        if result.error is not None:
            assert result.error.video == video


VIDEOS = st.lists(
    st.tuples(st.lists(st.integers(1, 3), max_size=4), st.sampled_from([None, None, "empty"])), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(shapes=VIDEOS, batch_size=st.integers(1, 5), part_size=st.integers(1, 4))
def test_every_row_has_the_mean_of_its_views_whatever_the_batches(shapes, batch_size, part_size):
    videos = [Video(str(index), rows, reason) for index, (rows, reason) in enumerate(shapes)]
    parts = [index // part_size for index in range(len(videos))]
    results, batches = run(videos, batch_size, parts=parts)
    check(videos, results)
    num_clips = collections.Counter()
    for index, video in enumerate(videos):
        num_clips[parts[index]] += sum(video.rows)
    # the fewest batches of which each is of one part
    expected = [min(batch_size, left) for part in sorted(num_clips) for left in range(num_clips[part], 0, -batch_size)]
    assert [len(batch) for batch in batches] == expected
    for batch in batches:
        assert len({parts[int(value) // 100] for value in batch}) == 1


@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_workers_and_messages_change_nothing(num_workers, rows):
    kinds = [([], "missing"), ([1], None), ([2, 1, 3, 1, 1, 1, 2], None), ([1, 1], "truncated")]
    videos = [Video(str(index), *kinds[index % 4], size=2 + index // 25) for index in range(50)]
    results, _ = run(videos, 4, num_workers, rows=rows)
    check(videos, results)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_messages_keep_the_order_of_videos_with_one_row(num_workers):
    videos = [Video(str(index), [2], "empty" if index % 7 == 3 else None) for index in range(50)]
    _, batches = run(videos, 9, num_workers, rows=4)
    assert [value for batch in batches for value in batch] == [100 * n + view for n in range(50) for view in (0, 1)]


@pytest.mark.parametrize(("num_values", "rows"), [(3 * 4 * 32 * 32, 16), (3 * 8 * 224 * 224, 3), (10**9, 1)])
def test_a_message_has_at_most_16_rows_and_about_16_mebibytes(num_values, rows):
    assert rows_per_message(num_values) == rows


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_where_videos_have_one_row_batches_are_in_their_order_and_do_not_depend_on_other_parts(num_workers):
    videos = [Video(str(index), [1], "truncated" if index == 4 else None) for index in range(10)]
    parts = [index // 5 for index in range(10)]
    _, batches = run(videos, 3, num_workers, parts)
    assert batches == [[0, 100, 200], [300, 400], [500, 600, 700], [800, 900]]
    model = Model()
    list(process_videos(videos[5:], read, lambda model, clips: model(clips), model, batch_size=3,
                        num_workers=num_workers, parts=parts[5:]))  # fmt: skip
    assert model.batches == batches[2:]


def test_clips_of_another_size_begin_a_new_batch():
    videos = [Video(str(index), [1], size=2 + index // 2) for index in range(4)]
    results, batches = run(videos, 3)
    check(videos, results)
    assert batches == [[0, 100], [200, 300]]


def test_a_long_video_is_not_held_in_memory():
    """A worker reads a row only if the model needs it, and holds one back."""
    read_rows = []

    def reader(video):
        for row in range(100):
            read_rows.append(row)
            yield (row, row + 1), torch.zeros(1, 1, 3, 2, 2)

    model = Model()
    step = lambda model, clips: seen.append(len(read_rows)) or model(clips)  # noqa: E731
    seen = []
    list(process_videos(["0"], reader, step, model, batch_size=10, num_workers=0))
    assert seen == [*range(11, 100, 10), 100]


def test_a_small_model_runs_in_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    threads = []
    model = Model()
    step = lambda model, clips: threads.append(torch.get_num_threads()) or model(clips)  # noqa: E731
    list(process_videos([Video("0", [1])], read, step, model, batch_size=1, num_workers=0))
    model.large = nn.Linear(1000, 1000)
    list(process_videos([Video("0", [1])], read, step, model, batch_size=1, num_workers=0))
    assert threads == [1, 2] and torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_results_are_put_in_order_as_soon_as_possible():
    results, _ = run([Video(str(index), [1]) for index in range(4)], 1)
    order = [results[index] for index in (2, 0, 1, 3)]
    taken = []

    def source():
        for result in order:
            taken.append(result.index)
            yield result

    ordered = in_order(source())
    assert next(ordered).index == 0 and taken == [2, 0]
    assert [result.index for result in ordered] == [1, 2, 3]


def test_an_error_of_a_reader_other_than_of_a_video_is_raised():
    def reader(video):
        raise RuntimeError("a bug")
        yield

    with pytest.raises(RuntimeError, match="a bug"):
        list(process_videos(["0"], reader, lambda model, clips: clips, Model(), batch_size=1, num_workers=0))
