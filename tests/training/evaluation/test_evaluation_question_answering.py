"""Evaluation of question answering: official rules, plain ranking, question types, broken videos, two processes."""

import argparse
import csv
import json
from pathlib import Path

import pytest
from recorded import load_recorded
from tiny_question_answering import ANSWERS, save_tiny, tiny_answerer, write_questions

from processing_umt import UMTProcessor
from umt_training.cli import evaluate as cli_evaluate
from umt_training.data.question_records import (
    load_question_records,
    read_answers,
    read_question_types,
    type_name,
    weigh_answers,
)
from umt_training.evaluation import clips
from umt_training.evaluation.question_answering import evaluate_questions, exact_match, possible_accuracy


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tiny_answerer(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_questions(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def processor(model) -> UMTProcessor:
    return UMTProcessor.from_pretrained(model)


def evaluate(data: Path, processor: UMTProcessor, **options):
    records = load_question_records(data / "questions.json")
    return evaluate_questions(tiny_answerer(), processor, records, ANSWERS, num_workers=0, **options)


# --- the official rules ---------------------------------------------------------------------------------------------


def test_answer_weights_and_exact_match_are_the_recorded_ones(processor):
    rules, _ = load_recorded("text_rules")
    for case in rules["answer_weights"]:
        answers, weights = weigh_answers(case["answers"])
        assert [[f"{answer} [SEP]" for answer in answers], weights] == case["output"]
    case = rules["exact_match"]
    assert exact_match(case["ground_truth"], case["predictions"]) == case["accuracy"]
    # the last of two predictions counts
    twice = [*case["predictions"], {"question_id": 1, "answer": "dog"}]
    assert exact_match(case["ground_truth"], twice) == 80.0


# --- the data -------------------------------------------------------------------------------------------------------


def test_tables_of_questions(tmp_path, data):
    records = load_question_records(data / "questions.json")
    assert records.column_names == ["video", "question", "answer", "question_id", "type"] and len(records) == 9
    rows = [{"video": f"{data}/clip0.mp4", "question": "a?", "answer": ["yes", "no"]}]
    (tmp_path / "several.json").write_text(json.dumps(rows * 2))
    records = load_question_records(tmp_path / "several.json")
    assert records["question_id"] == [0, 1] and records[1]["answer"] == ["yes", "no"]
    wrong = {
        "no column question": [{"video": f"{data}/clip0.mp4", "answer": "yes"}],
        "clip0.mp4, row 0 of .*wrong.json, has no answer": [rows[0] | {"answer": ""}],
        "are repeated, first 7": [rows[0] | {"question_id": 7}] * 2,
    }
    for message, table in wrong.items():
        (tmp_path / "wrong.json").write_text(json.dumps(table))
        with pytest.raises(ValueError, match=message):
            load_question_records(tmp_path / "wrong.json")


def test_lists_of_answers_and_types(tmp_path):
    (tmp_path / "a.json").write_text('["yes", "no", "yes"]')
    (tmp_path / "a.txt").write_text("yes\n\n a dog \n")
    assert read_answers(tmp_path / "a.json") == ["yes", "no"] and read_answers(tmp_path / "a.txt") == ["yes", "a dog"]
    (tmp_path / "types.json").write_text('[{"question_id": "q1", "type": 3, "answer": "yes"}]')
    assert read_question_types(tmp_path / "types.json") == {"q1": 3}
    assert [type_name(kind) for kind in (0, 3, 8, "why")] == ["motion", "yes/no", "other", "why"]
    (tmp_path / "b.json").write_text('{"yes": 1}')
    for read in (read_answers, read_question_types):
        for name in ("b.json", "missing.json"):
            with pytest.raises(ValueError, match=name):
                read(tmp_path / name)


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_every_question_is_answered_as_by_ranking_it_alone(data, processor):
    scores = evaluate(data, processor, k=4)
    rows = json.loads((data / "questions.json").read_text())
    candidates, model = processor.encode_answers(ANSWERS, return_tensors="pt"), tiny_answerer()
    expected = []
    for row in rows:
        if row["video"] == "clip1.mp4":
            expected.append(None)
            continue
        inputs = processor(videos=str(data / row["video"]), text=row["question"], return_tensors="pt")
        indices, _ = model.rank_answers(
            **inputs, candidate_ids=candidates["input_ids"], candidate_attention_mask=candidates["attention_mask"], k=4
        )
        expected.append(ANSWERS[indices[0, 0]])
    assert scores.predictions == expected and len(set(expected)) > 2
    assert [(Path(video.video).name, video.reason) for video in scores.skipped] == [("clip1.mp4", "not_a_video")]
    correct = [prediction == row["answer"] for prediction, row in zip(expected, rows, strict=True)]
    assert scores.accuracy == round(100 * sum(correct) / 9, 2)
    assert scores.accuracy_by_type == {
        "motion": round(100 * sum(correct[::2]) / 5, 2),
        "yes/no": round(100 * sum(correct[1::2]) / 4, 2),
    }
    protocol = {"frames": 2, "sampling": "middle", "resolution": [32, 32], "candidates": 5, "k": 4, "dtype": "float32"}
    assert scores.protocol == protocol | {"possible_accuracy": 100.0}


def test_types_from_a_separate_list(data, processor):
    types = {f"q{index}": "first" if index == 0 else "rest" for index in range(9)}
    assert evaluate(data, processor, types=types).types == ["first"] + 8 * ["rest"]
    with pytest.raises(ValueError, match="8 questions have no type, first that with the id 'q1'"):
        evaluate(data, processor, types={"q0": 1})


# differ in case, and after the five tokens of an answer
EQUAL = {"A dog": "a dog", "the man runs fast two": "the man runs fast no"}


@pytest.mark.parametrize("turned", [False, True])
def test_equal_candidates_are_reported_and_the_first_is_predicted(turned, data, processor):
    pairs = [word for pair in EQUAL.items() for word in (pair[::-1] if turned else pair)]
    candidates = [*pairs, *ANSWERS[:3]]
    records = load_question_records(data / "questions.json")
    model = tiny_answerer()
    scores = evaluate_questions(model, processor, records, candidates, num_workers=0)
    assert scores.equal_candidates == pairs and scores.num_answers_by_order == 0
    assert not {*scores.predictions} & {*pairs[1::2]}
    alone = evaluate_questions(model, processor, records, [*pairs[::2], *ANSWERS[:3]], num_workers=0)
    assert scores.predictions == alone.predictions and alone.equal_candidates == []
    with_dog = records.map(lambda row: {"answer": "a dog"})
    scores = evaluate_questions(model, processor, with_dog, candidates, num_workers=0)
    assert scores.num_answers_by_order == 9 and scores.protocol["possible_accuracy"] == 100.0


def test_a_list_without_any_correct_answer_is_refused(data, processor):
    records = load_question_records(data / "questions.json")
    with pytest.raises(ValueError, match=r"None of the 9 annotated answers \(such as 'yes'\) is in the list of 2"):
        evaluate_questions(tiny_answerer(), processor, records, ["Yes", "No"], num_workers=0)
    with pytest.raises(ValueError, match="9 questions and 0 candidate answers"):
        evaluate_questions(tiny_answerer(), processor, records, [], num_workers=0)
    assert possible_accuracy(["a", "b", "b", "c"], ["b", "c", "d"]) == 75.0


def test_what_cannot_be_evaluated(data, processor, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    row = {"video": f"{tmp_path}/broken.mp4", "question": "a?", "answer": "yes"}
    (tmp_path / "questions.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=r"None of the 1 videos can be read: .*broken.mp4 \(not_a_video\)"):
        evaluate(tmp_path, processor)
    (tmp_path / "questions.json").write_text(json.dumps([row | {"answer": ["yes", "no"]}]))
    with pytest.raises(ValueError, match="one answer per question"):
        evaluate(tmp_path, processor)


def command(*argv) -> int:
    parser = argparse.ArgumentParser()
    cli_evaluate.add_arguments(parser)
    options = ["--device", "cpu", "--num-workers", 0]
    return cli_evaluate.run(parser.parse_args([str(word) for word in (*argv, *options)]))


def test_command(model, data, processor, tmp_path, capsys):
    arguments = [
        "--task",
        "question_answering",
        "--model",
        model,
        "--data",
        data / "questions.json",
        "--output",
        tmp_path / "out",
    ]
    assert command(*arguments, "--answers", data / "answers.json", "--scored", 4) == 0
    expected = evaluate(data, processor, k=4)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["task"] == "visual-question-answering"
    assert results["metrics"] == {"accuracy": expected.accuracy, "accuracy_by_type": expected.accuracy_by_type}
    assert results["dataset"]["num_questions"] == 9 and results["dataset"]["num_unread_questions"] == 2
    with (tmp_path / "out" / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] or None for row in rows] == expected.predictions
    printed = capsys.readouterr().out
    assert f"{expected.accuracy:6.2f} %" in printed and "2 questions about 1 videos" in printed
    assert results["protocol"]["equal_candidates"] == 0 and "tokens of another" not in printed
    with pytest.raises(ValueError, match="--answers"):
        command(*arguments)
    (tmp_path / "equal.json").write_text(json.dumps([*ANSWERS, "Yes", "YES"]))
    assert command(*arguments, "--answers", tmp_path / "equal.json") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"]["equal_candidates"] == 3 and results["metrics"]["accuracy"] == expected.accuracy
    num_yes = sum(answer == "yes" for answer in expected.answers)
    assert results["dataset"]["num_answers_by_order"] == num_yes > 0
    printed = capsys.readouterr().out
    assert "3 candidates have the tokens of another, such as 'yes': the first is predicted" in printed
    assert f"{num_yes} questions have one of these candidates as their answer" in printed


def test_texts_that_the_model_cannot_read(model, data, tmp_path, capsys):
    """Questions that are cut, answers that are equal; a long question type is shortened in the table alone."""
    rows = json.loads((data / "questions.json").read_text())
    for row in rows:
        row["type"] = "why\n" + "x" * 100
    rows[0]["question"] = "a man " * 6
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    (tmp_path / "answers.JSON").write_text(json.dumps([*ANSWERS, "Yes", "xyzzy"]))
    arguments = ["--task", "question_answering", "--model", model, "--data", tmp_path / "questions.json"]
    arguments += ["--root", data, "--output", tmp_path / "out"]
    assert command(*arguments, "--answers", tmp_path / "answers.JSON") == 0
    printed = capsys.readouterr()
    assert "questions.json: of 3, 1 are cut to 8 tokens, 0 have" in printed.err
    assert "answers.JSON: of 7, 0 are cut to 5 tokens, 1 have no word of the vocabulary, 2 are equal" in printed.err
    assert max(map(len, printed.out.splitlines())) < 110 and "why xxxxxxxxxxxxxxx…" in printed.out
    assert [
        len(kind) for kind in json.loads((tmp_path / "out/results.json").read_text())["metrics"]["accuracy_by_type"]
    ] == [104]
    (tmp_path / "unknown.txt").write_text("xyzzy\nqwert")
    with pytest.raises(ValueError, match=r"answers of .*unknown.txt: no word is in the vocabulary"):
        command(*arguments, "--answers", tmp_path / "unknown.txt")


def test_questions_of_a_clip_are_decoded_once(data, processor, monkeypatch):
    opened, reader = [], clips.VideoReader
    monkeypatch.setattr(clips, "VideoReader", lambda video: opened.append(video) or reader(video))
    evaluate(data, processor)
    assert len(opened) == 5 == len(set(opened))
