"""Interrupted evaluations of all tasks: what is resumed, what is not, and that the results are the same bits."""

import multiprocessing
import os
import signal
import zipfile
from pathlib import Path

import evaluate
import numpy as np
import pytest
import tiny_evaluations
import torch
from tiny_classifier import save_noise, tiny_classifier
from tiny_evaluations import CAPTIONS, NUM_VIDEOS, TASKS, Interruption, interrupted, values_of
from tiny_question_answering import ANSWERS, tiny_answerer
from tiny_video_text_retrieval import tiny_retrieval_model
from warm_python import launch

from umt_training.evaluation.partial_scores import video_keys

MODELS = {
    "classification": tiny_classifier,
    "question_answering": tiny_answerer,
    "multiple_choice": tiny_retrieval_model,
    "retrieval": tiny_retrieval_model,
}
per_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(autouse=True)
def evaluate_cache(tmp_path, monkeypatch):
    """`evaluate` creates a folder for every metric: here in the test's temporary folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


@pytest.fixture(autouse=True)
def one_thread():
    """Threads do not survive a fork, and their number may change the bits of a result."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return tiny_evaluations.make_processor(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture
def videos(tmp_path) -> list[str]:
    return tiny_evaluations.save_clips(tmp_path / "videos")


@pytest.fixture
def score(processor, tmp_path):
    """Evaluates a task with partial scores in the test's temporary folder."""

    def score(task, videos, partial_folder=tmp_path / "partial", **options):
        return tiny_evaluations.evaluate_task(task, processor, videos, partial_folder, **options)

    return score


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("by", ["exception", "SIGKILL"])
@per_task
def test_a_resumed_evaluation_equals_an_uninterrupted_one(task, by, score, videos):
    """Bit for bit, and without the videos that were done, except for those of a batch that was not complete."""
    patch, _ = interrupted(task, 2, kill if by == "SIGKILL" else None)
    if by == "SIGKILL":
        with patch:
            child = multiprocessing.get_context("fork").Process(target=score, args=(task, videos))
            child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    else:
        with patch, pytest.raises(Interruption):
            score(task, videos)
    patch, calls = interrupted(task, -1)
    with patch:
        resumed = score(task, videos)
    num_done = 1 if task == "classification" else 2  # four views are a batch of three and one that is lost
    assert (resumed.num_resumed, len(calls)) == (num_done, NUM_VIDEOS - num_done)
    expected = score(task, videos, None)
    assert expected.num_resumed == 0 and expected.partial_folder is None
    assert values_of(task, resumed) == values_of(task, expected)
    again = score(task, videos)
    assert again.num_resumed == NUM_VIDEOS and values_of(task, again) == values_of(task, expected)


@per_task
def test_the_scores_of_a_changed_file_are_computed_again(task, score, videos):
    first = score(task, videos)
    save_noise(Path(videos[1]), 20, num_frames=6, height=32, width=48)
    second = score(task, videos)
    # in retrieval other videos may have other candidates now
    assert second.num_resumed == 4 if task != "retrieval" else 1 <= second.num_resumed <= 4
    expected = values_of(task, score(task, videos, None))
    assert values_of(task, second) == expected != values_of(task, first)


@per_task
def test_a_video_that_could_not_be_read_is_tried_again(task, score, videos):
    path, content = Path(videos[1]), Path(videos[1]).read_bytes()
    path.unlink()
    first = score(task, videos)
    assert [video[:2] for video in first.skipped] == [(videos[1], "missing")]
    path.write_bytes(content)
    second = score(task, videos)
    assert second.num_resumed == 4 if task != "retrieval" else 1 <= second.num_resumed <= 4
    assert second.skipped == [] and values_of(task, second) == values_of(task, score(task, videos, None))


@pytest.mark.parametrize(
    ("task", "other"),
    [
        ("classification", {"num_crops": 2}),
        ("classification", {"autocast_dtype": torch.bfloat16}),
        ("question_answering", {"k": 3}),
        ("question_answering", {"candidates": [*ANSWERS[1:], ANSWERS[0]]}),
        ("question_answering", {"questions": ["Is a dog on the bike?", "What's the man doing?"]}),
        ("question_answering", {"autocast_dtype": torch.bfloat16}),
        ("multiple_choice", {"captions": [*CAPTIONS[1:], CAPTIONS[0]]}),
        ("multiple_choice", {"autocast_dtype": torch.bfloat16}),
        ("retrieval", {"captions": [*CAPTIONS[1:], CAPTIONS[0]]}),
        ("retrieval", {"num_reranked": 1}),
        ("retrieval", {"num_frames": 3}),
        ("retrieval", {"trim_seconds": 0.3}),
        ("retrieval", {"max_text_length": 3}),
        ("retrieval", {"autocast_dtype": torch.bfloat16}),
        *((task, "weights") for task in TASKS),
        *((task, "names") for task in TASKS),
        *((task, "tokenizer") for task in TASKS[1:]),
    ],
)
def test_other_models_options_and_data_resume_nothing(task, other, score, videos, processor, tmp_path):
    score(task, videos)
    options = other if isinstance(other, dict) else {}
    if other == "weights":
        options = {"model": MODELS[task]()}
        next(options["model"].parameters()).data.view(-1)[0] += 1e-3
    if other == "names":
        videos = [videos[1], videos[0], *videos[2:]]
    if other == "tokenizer":
        other_processor = tiny_evaluations.make_processor(tmp_path / "other")
        other_processor.tokenizer.add_tokens(["bikes"])
        score = lambda task, videos: tiny_evaluations.evaluate_task(  # noqa: E731
            task, other_processor, videos, tmp_path / "partial"
        )
    assert score(task, videos, **options).num_resumed == 0


@pytest.mark.parametrize("field", ["row", "video", "values", "crc"])
@per_task
def test_damaged_records_are_left_out(task, field, score, videos):
    """A flipped bit in the record of the first video, zeros in that of the third, and the last record cut off."""
    complete = score(task, videos)
    [file] = complete.partial_folder.glob("*.scores")
    num_records = NUM_VIDEOS * (2 if task == "question_answering" else 1)
    content = bytearray(file.read_bytes())
    size, rest = divmod(len(content), num_records)
    assert rest == 0
    content[{"row": 0, "video": 12, "values": 18, "crc": size - 1}[field]] ^= 4
    third = num_records // NUM_VIDEOS * 2
    content[third * size : (third + 1) * size] = bytes(size)
    file.write_bytes(content[: -size // 2])
    resumed = score(task, videos)
    assert resumed.num_resumed == 2
    assert values_of(task, resumed) == values_of(task, complete)


@per_task
def test_bytes_are_known_by_their_content(task, score, videos, tmp_path):
    def records(paths):
        return [{"path": None, "bytes": Path(path).read_bytes()} for path in paths]

    complete = score(task, records(videos))
    # without a name each row is a video
    assert score(task, records(videos)).num_resumed == NUM_VIDEOS * (2 if task == "question_answering" else 1)
    other = records(tiny_evaluations.save_clips(tmp_path / "other", seed=10))
    second = score(task, other)
    assert second.num_resumed == 0
    assert values_of(task, second) == values_of(task, score(task, other, None)) != values_of(task, complete)


def test_two_processes_resume_what_they_began(processor, videos, score, tmp_path):
    """And one process resumes what two of them computed."""
    done = launch(tiny_evaluations.__file__, str(tmp_path / "videos"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    for task in TASKS:
        for rank in range(2):
            assert np.load(tmp_path / f"{task}{rank}.npy") >= 2
        options = {"batch_size": 2} if task in ("classification", "retrieval") else {}
        resumed = score(task, videos, tmp_path / task, **options)
        assert resumed.num_resumed == NUM_VIDEOS
        if task in ("question_answering", "multiple_choice"):
            assert values_of(task, resumed) == values_of(task, score(task, videos, None))


def test_keys_change_with_the_video(tmp_path):
    """A file, one in an archive, bytes in a list; a URL on the network is known by its name."""
    path = save_noise(tmp_path / "a.mp4", 0)
    archive = tmp_path / "a.zip"
    videos = [str(path), f"file://{path}", f"zip://a.mp4::{archive}", b"content", "https://example.org/a.mp4"]
    names = [*videos[:3], "record 3", videos[4]]

    def keys():
        return video_keys(videos, names).tolist()

    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "a.mp4")
    before = keys()
    assert keys() == before and len(set(before)) == 5
    os.utime(path, ns=(0, 1))
    os.utime(archive, ns=(0, 1))
    videos[3] = b"other"
    assert [new == old for new, old in zip(keys(), before, strict=True)] == [False, False, False, False, True]


@per_task
def test_scores_that_are_not_finite_are_an_error_when_resumed_too(task, score, videos):
    model = MODELS[task]()
    list(model.parameters())[-1].data[:] = float("nan")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"not finite in (torch\.)?float32"):
            score(task, videos, model=model)


def test_an_output_that_cannot_be_written_is_an_error_before_a_video_is_read(score, videos, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for task in TASKS:
        patch, calls = interrupted(task, -1)
        with patch, pytest.raises(NotADirectoryError, match="file"):
            score(task, videos, tmp_path / "file" / "partial")
        assert not calls
