"""`umt ask` with a tiny model: choosing from a list, generating answers, broken videos."""

import json
import re
from pathlib import Path

import pytest
from tiny_classifier import save_noise
from tiny_question_answering import ANSWERS, save_tiny, tiny_answerer, tiny_stage2

from processing_umt import UMTProcessor
from umt_training import cli

QUESTION = "What's the man doing?"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tiny_answerer(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    return str(save_noise(tmp_path_factory.mktemp("videos") / "clip.mp4", 3, num_frames=6, height=32, width=48))


def inputs(model: Path, video: str) -> dict:
    return dict(UMTProcessor.from_pretrained(model)(videos=video, text=QUESTION, return_tensors="pt"))


def test_it_chooses_from_a_list(model, video, tmp_path, capsys):
    (tmp_path / "answers.txt").write_text("\n".join(ANSWERS))
    command = ["ask", video, QUESTION, "--model", str(model), "--candidates", str(tmp_path / "answers.txt")]
    assert cli.main([*command, "--device", "cpu", "--top-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    encoded = UMTProcessor.from_pretrained(model).encode_answers(ANSWERS, return_tensors="pt")
    indices, scores = tiny_answerer().rank_answers(**inputs(model, video), candidate_ids=encoded["input_ids"])
    assert (found["video"], found["question"]) == (video, QUESTION)
    assert [answer["answer"] for answer in found["answers"]] == [ANSWERS[index] for index in indices[0, :3]]
    assert [answer["score"] for answer in found["answers"]] == pytest.approx(scores[0, :3].tolist(), abs=1e-6)

    assert cli.main([*command, "--device", "cpu", "--top-k", "1"]) == 0
    assert capsys.readouterr().out == f"{ANSWERS[indices[0, 0]]}  {scores[0, 0]:.4f}\n"


def test_it_generates_answers_with_their_probabilities(model, video, capsys):
    assert cli.main(["ask", video, QUESTION, "--model", str(model), "--device", "cpu", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True) and scores[-1] > 0 and sum(scores) <= 1 + 1e-6
    generated = tiny_answerer().generate(**inputs(model, video), num_beams=5, length_penalty=0.0)
    likeliest = tiny_answerer()(**inputs(model, video), labels=generated).answer_losses.neg().exp()
    assert scores[0] == pytest.approx(likeliest.item(), rel=1e-4)
    text = UMTProcessor.from_pretrained(model).tokenizer.decode(generated[0], skip_special_tokens=True)
    assert answers[0]["answer"] == text


def test_errors(model, video, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    stage2 = save_tiny(tiny_stage2(), tmp_path / "stage2")
    for arguments, message in {
        (str(tmp_path / "broken.mp4"), QUESTION, "--model", str(model)): "broken.mp4",
        (video, QUESTION, "--model", str(model), "--top-k", "0"): "--top-k is 0",
        (video, QUESTION, "--model", str(model), "--candidates", "nothing.json"): "nothing.json",
        (video, QUESTION, "--model", str(stage2)): "cannot answer questions",
    }.items():
        assert cli.main(["ask", *arguments, "--device", "cpu"]) == 1
        assert message in capsys.readouterr().err


def test_half_precision(model, video, capsys):
    assert cli.main(["ask", video, QUESTION, "--model", str(model), "--device", "cpu", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("question", "candidates", "message"),
    [
        ("?!", "yes\nno", "the question: nothing is left without punctuation"),
        ("xyzzy?", "yes\nno", "the question: no word is in the vocabulary"),
        (QUESTION, "xyzzy\nqwert", "answers of .*: no word is in the vocabulary"),
        (QUESTION, "a man run fast a\na man run fast the", "answers of .*: all 2 are equal .* cut to 5 tokens"),
    ],
)
def test_texts_without_meaning_are_errors(question, candidates, message, model, video, tmp_path, capsys):
    (tmp_path / "answers.txt").write_text(candidates)
    command = ["ask", video, question, "--model", str(model), "--candidates", str(tmp_path / "answers.txt")]
    assert cli.main([*command, "--device", "cpu"]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_texts_that_are_read_in_part_are_stated_on_stderr(model, video, tmp_path, capsys):
    (tmp_path / "answers.csv").write_text("answer,count\nyes,2\nYes,1\nxyzzy,1\n")
    command = ["ask", video, "a man " * 5, "--model", str(model), "--candidates", str(tmp_path / "answers.csv")]
    assert cli.main([*command, "--device", "cpu", "--json"]) == 0
    printed = capsys.readouterr()
    assert {answer["answer"] for answer in json.loads(printed.out)["answers"]} == {"yes", "Yes", "xyzzy"}
    assert "note: the question: of 1, 1 are cut to 8 tokens" in printed.err
    assert "answers.csv: of 3, 0 are cut to 5 tokens, 1 have no word of the vocabulary, 2 are equal" in printed.err
