"""Every command that reads texts with a model refuses a processor with another vocabulary, in one line and before it
reads a video."""

import json
from pathlib import Path

import pytest
from bert_vocabulary import WORDS, write_vocabulary
from tiny_classifier import save_noise
from tiny_question_answering import save_tiny, tiny_answerer
from tiny_video_text_retrieval import save_tiny_retrieval_model, tiny_retrieval_model

from modeling_umt import UMTVideoTextConfig, vocabulary_hash
from processing_umt import UMTProcessor
from umt_training import cli
from umt_training.cards.saved_model import repository_contents
from umt_training.search.fingerprint import fingerprint

OTHER = {"larger": [*WORDS, "zebra"], "smaller": WORDS[:-1], "permuted": [*WORDS[1:], WORDS[0]]}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Two models, a video, and a table of each task about it."""
    folder = tmp_path_factory.mktemp("world")
    save_tiny_retrieval_model(folder / "retrieval")
    save_tiny(tiny_answerer(), folder / "answerer")
    save_noise(folder / "videos" / "clip.mp4", 0, num_frames=6, height=32, width=48)
    row = {"video": str(folder / "videos" / "clip.mp4")}
    for name, fields in {
        "captions": {"caption": "a dog"},
        "choices": {"caption": ["a dog", "a cat"], "answer": 0},
        "questions": {"question": "a dog?", "answer": "yes"},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps([row | fields]))
    (folder / "answers.json").write_text('["yes", "no"]')
    return folder


def commands(world: Path, output: Path) -> dict[str, tuple[str, list]]:
    """Name → the model and the arguments of a command that would succeed with its own vocabulary."""
    clip, answers = world / "videos" / "clip.mp4", ["--answers", world / "answers.json"]
    evaluation = ["--num-workers", 0, "--output", output / "results"]
    search = ["search", "a dog", world / "videos", "--index", output / "index", "--num-workers", 0]
    return {
        "search": ("retrieval", search),
        "embed": ("retrieval", ["embed", clip, "--output", output / "vectors.parquet"]),
        "retrieval": (
            "retrieval",
            ["evaluate", "--task", "retrieval", "--data", world / "captions.json", *evaluation],
        ),
        "multiple choice": (
            "retrieval",
            ["evaluate", "--task", "multiple_choice", "--data", world / "choices.json", *evaluation],
        ),
        "question answering": (
            "answerer",
            ["evaluate", "--task", "question_answering", "--data", world / "questions.json", *answers, *evaluation],
        ),
        "ask": ("answerer", ["ask", clip, "a dog?"]),
    }


def with_vocabulary(world: Path, name: str, words, folder: Path, recorded: bool) -> Path:
    """A copy of a model whose processor has other words; `recorded`: its configuration has the hash of its own."""
    make = {"retrieval": tiny_retrieval_model, "answerer": tiny_answerer}[name]
    model = make()
    if recorded:
        model.config.vocabulary_hash = vocabulary_hash(UMTProcessor.from_pretrained(world / name).tokenizer)
    model.save_pretrained(folder)
    vocabulary = write_vocabulary(folder, words)
    UMTProcessor.from_bert(vocabulary, image_size=32, num_frames=2, max_text_length=8).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["search", "embed", "retrieval", "multiple choice", "question answering", "ask"])
def test_a_command_refuses_another_vocabulary(name, world, tmp_path, capsys, monkeypatch):
    kind, arguments = commands(world, tmp_path)[name]
    own = with_vocabulary(world, kind, WORDS, tmp_path / "own", recorded=True)
    command = [*map(str, arguments), "--device", "cpu", "--model"]
    for words, recorded in [*((words, True) for words in OTHER), ("larger", False), ("smaller", False)]:
        model = with_vocabulary(world, kind, OTHER[words], tmp_path / f"{words}-{recorded}", recorded)
        assert cli.main([*command, str(model)]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"the model {model}" in error and "its processor" in error and "tokens" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["own", *(f"{words}-True" for words in OTHER), "larger-False", "smaller-False"]
    )  # nothing was written
    assert cli.main([*command, str(own)]) == 0


def test_a_video_text_model_without_a_tokenizer_still_embeds(world, tmp_path):
    folder = tmp_path / "model"
    tiny_retrieval_model().save_pretrained(folder)
    UMTProcessor.from_pretrained(world / "retrieval").video_processor.save_pretrained(folder)
    _, arguments = commands(world, tmp_path)["embed"]
    assert cli.main([*map(str, arguments), "--device", "cpu", "--model", str(folder)]) == 0


def test_an_index_stays_valid_when_the_hash_is_recorded(world):
    model, processor = tiny_retrieval_model(), UMTProcessor.from_pretrained(world / "retrieval")
    before = fingerprint(model, processor)
    model.config.vocabulary_hash = vocabulary_hash(processor.tokenizer)
    assert fingerprint(model, processor) == before


def test_publishing_records_the_vocabulary_of_a_folder_or_refuses_it(world, tmp_path):
    contents = repository_contents(world / "retrieval", "me/tiny")
    (tmp_path / "config.json").write_bytes(contents["config.json"])
    config = UMTVideoTextConfig.from_pretrained(tmp_path)
    assert config.vocabulary_hash == vocabulary_hash(UMTProcessor.from_pretrained(world / "retrieval").tokenizer)
    saved = json.loads((world / "retrieval" / "config.json").read_text())
    assert json.loads(contents["config.json"]) == saved | {"vocabulary_hash": config.vocabulary_hash}
    folder = with_vocabulary(world, "retrieval", OTHER["permuted"], tmp_path / "permuted", recorded=True)
    with pytest.raises(ValueError, match="is not that of the model"):
        repository_contents(folder, "me/tiny")
