"""Multiple choice: recorded scores, every row against plain scoring, broken videos, the command, two processes."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded import load_recorded
from tiny_classifier import save_noise
from tiny_video_text_retrieval import recorded_retrieval_model, save_tiny_retrieval_model, tiny_retrieval_model

from processing_umt import UMTProcessor
from umt_training.cli import evaluate as cli_evaluate
from umt_training.cli import main
from umt_training.data.video_records import load_video_records
from umt_training.evaluation import multiple_choice
from umt_training.evaluation.multiple_choice import (
    best_options,
    evaluate_multiple_choice,
    multiple_choice_scores,
    score_options,
)

OPTIONS = ["a man runs", "a dog on the bike", "two cars", "the cat", "a person doing yes"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_retrieval_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder, rows = tmp_path_factory.mktemp("data"), []
    for index in range(5):
        save_noise(folder / f"clip{index}.mp4", index, num_frames=6, height=32, width=48)
        options = [*OPTIONS[index:], *OPTIONS[:index]]
        rows.append({"video": f"clip{index}.mp4", "caption": options, "answer": (2 * index) % 5})
    (folder / "clip3.mp4").write_bytes(b"no video")
    (folder / "choices.json").write_text(json.dumps(rows))
    return folder / "choices.json"


def test_scores_are_the_recorded_ones():
    description, tensors = load_recorded("retrieval_rerank")
    model = recorded_retrieval_model(description, tensors)
    description, recorded = load_recorded("retrieval_multiple_choice")
    texts = recorded["input/candidate_text_index"].flatten()
    scores = score_options(
        model,
        tensors["input/input_ids"][texts],
        tensors["input/attention_mask"][texts],
        tensors["input/video"][recorded["input/video_index"]],
    )
    torch.testing.assert_close(scores, recorded["expected/scores"], rtol=0, atol=1e-5)
    assert scores.argmax(dim=1).tolist() == description["predicted"]
    correct = scores.argmax(dim=1) == recorded["input/answer"]
    assert round(100 * correct.float().mean().item(), 2) == description["accuracy"]


def test_the_two_scores_are_weighted_seven_to_three():
    logits, similarity = torch.tensor([[[0.0, 2.0], [1.0, 1.0]]]), torch.tensor([[0.2, 0.1]])
    expected = 0.7 * torch.tensor([[2.0, 0.0]]).sigmoid() + 0.3 * torch.tensor([[2.0, 1.0]]).softmax(-1)
    torch.testing.assert_close(multiple_choice_scores(logits, similarity, 0.1), expected)


def test_every_row_is_scored_as_if_alone(data, model):
    processor, records = UMTProcessor.from_pretrained(model), load_video_records(data)
    scores = evaluate_multiple_choice(tiny_retrieval_model(), processor, records, num_workers=0)
    expected = []
    for index, row in enumerate(records):
        if index == 3:
            expected.append(None)
            continue
        inputs = processor(videos=row["video"], text=row["caption"], return_tensors="pt")
        expected.append(score_options(tiny_retrieval_model(), **inputs)[0].argmax().item())
    assert scores.choices == expected and len(set(expected)) > 2
    assert [Path(video.video).name for video in scores.skipped] == ["clip3.mp4"]
    num_correct = sum(choice == answer for choice, answer in zip(expected, records["answer"], strict=True))
    assert scores.accuracy == round(100 * num_correct / 5, 2)


# --- equal options --------------------------------------------------------------------------------------------------


def plain_best_options(scores, ids):
    """Every option that is the highest, or has the same tokens as one that is."""
    highest = [option for option in range(len(scores)) if scores[option] == max(scores)]
    return [option for option in range(len(scores)) if any(ids[option] == ids[other] for other in highest)]


@given(st.data())
def test_the_best_options_are_those_with_the_highest_score_and_those_equal_to_them(data):
    length = data.draw(st.integers(1, 6))
    scores = data.draw(st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=length, max_size=length))
    ids = data.draw(st.lists(st.sampled_from([[101, 5], [101, 6]]), min_size=length, max_size=length))
    assert best_options(torch.tensor(scores), torch.tensor(ids)) == plain_best_options(scores, ids)


def evaluate_rows(data, model, rows: list[dict], **options):
    path = data.with_name(f"rows-{len(list(data.parent.iterdir()))}.json")
    path.write_text(json.dumps([{"video": "clip0.mp4"} | row for row in rows]))
    records, processor = load_video_records(path), UMTProcessor.from_pretrained(model)
    return evaluate_multiple_choice(tiny_retrieval_model(), processor, records, num_workers=0, **options)


def test_accuracy_does_not_depend_on_the_order_of_equal_options(data, model, tmp_path):
    """Equal after cleaning, and after the last of eight tokens; with every place of the correct option."""
    long = "a man runs fast the dog two"
    equal = [["A man!", "a man", "a man."], [f"{long} cat", f"{long} bike"]]
    for options in equal:
        rows = [{"caption": options, "answer": answer} for answer in range(len(options))]
        scores = evaluate_rows(data, model, rows)
        assert scores.credits == [1 / len(options)] * len(options) and scores.choices == [0] * len(options)
        assert (scores.num_ties, scores.num_equal) == (len(rows), len(rows))
        assert scores.accuracy == round(100 / len(options), 2)
    # with another option, which is the best one in one of the two orders of scores, or not
    options = ["a man", "A man!", "two cars on the bike"]
    rows = [{"caption": options, "answer": answer} for answer in range(3)]
    scores = evaluate_rows(data, model, rows, partial_folder=tmp_path)
    assert scores.num_equal == 3 and scores.num_resumed == 0
    assert scores.credits in ([0.5, 0.5, 0.0], [0.0, 0.0, 1.0])
    again = evaluate_rows(data, model, rows, partial_folder=tmp_path)
    assert again.num_resumed == 3 and (again.credits, again.num_ties) == (scores.credits, scores.num_ties)
    # the answers are not part of what was saved
    other = evaluate_rows(data, model, [row | {"answer": 2} for row in rows], partial_folder=tmp_path)
    assert other.num_resumed == 3 and other.credits == 3 * scores.credits[2:]


def test_a_model_that_cannot_tell_options_apart_has_the_accuracy_of_chance(data, model, monkeypatch):
    monkeypatch.setattr(multiple_choice, "score_options", lambda *args, **inputs: torch.zeros(1, 5))
    rows = [{"caption": OPTIONS, "answer": answer} for answer in (0, 0, 4)]
    scores = evaluate_rows(data, model, rows)
    assert scores.accuracy == 20.0 and (scores.num_ties, scores.num_equal) == (3, 0)


def test_command_reports_equal_options(data, model, tmp_path, capsys):
    rows = [{"video": "clip0.mp4", "caption": texts, "answer": 1} for texts in (["a man", "A man!"], ["car", "Car"])]
    path = data.with_name("equal.json")
    path.write_text(json.dumps(rows))
    words = ["evaluate", "--task", "multiple_choice", "--model", model, "--device", "cpu", "--num-workers", 0]
    assert main([str(word) for word in (*words, "--data", path, "--output", tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "accuracy  50.00 %" in printed and "2 videos have options that are equal for the model" in printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"] == {"accuracy": 50.0}
    assert (results["dataset"]["num_with_equal_options"], results["dataset"]["num_ties"]) == (2, 2)
    assert (tmp_path / "choices.csv").read_text().splitlines()[0] == "video,answer,choice,credit"
    assert (tmp_path / "choices.csv").read_text().splitlines()[1].endswith(",1,0,0.5")


def test_command_and_wrong_tables(data, model, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    cli_evaluate.add_arguments(parser)
    options = ["--task", "multiple_choice", "--model", model, "--device", "cpu", "--num-workers", 0]
    args = parser.parse_args([str(word) for word in (*options, "--data", data, "--output", tmp_path / "out")])
    assert cli_evaluate.run(args) == 0
    processor = UMTProcessor.from_pretrained(model)
    records = load_video_records(data)
    expected = evaluate_multiple_choice(tiny_retrieval_model(), processor, records, num_workers=0)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["metrics"] == {"accuracy": expected.accuracy} and results["dataset"]["num_skipped"] == 1
    printed = capsys.readouterr().out.splitlines()
    assert f"{expected.accuracy:6.2f} %" in printed[-3]
    assert printed[-2] == "  counted as wrong: 1 videos that can't be read (not_a_video 1)"
    assert printed[-1] == f"written to {tmp_path / 'out'}"
    rows = json.loads(data.read_text())
    for wrong, message in ({"answer": 5}, "not an index"), ({"caption": "a man"}, "not an index"):
        path = data.with_name("wrong.json")
        path.write_text(json.dumps([rows[0] | wrong]))
        with pytest.raises(ValueError, match=message):
            evaluate_multiple_choice(tiny_retrieval_model(), processor, load_video_records(path))
    with pytest.raises(ValueError, match="caption"):
        evaluate_multiple_choice(tiny_retrieval_model(), processor, records.remove_columns("answer"))
