"""The video-text models that runs start from: what each run keeps, what it refuses, and the vocabulary."""

from pathlib import Path

import pytest
import torch
from bert_vocabulary import WORDS, write_vocabulary
from tiny_question_answering import save_tiny, tiny_answerer, tiny_stage2
from tiny_video_text_retrieval import save_tiny_retrieval_model, tiny_retrieval_model

from modeling_umt import (
    UMTForPreTraining,
    UMTForVideoQuestionAnswering,
    UMTForVideoTextPreTraining,
    UMTVideoTextConfig,
    vocabulary_hash,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from processing_umt import UMTProcessor
from umt_training.runs import question_answering_run, retrieval_run, video_text_run, video_text_start
from umt_training.runs.video_text_start import changed, record_run_vocabulary

OBJECTIVES = {"mlm_weight": 1.0, "uta_weight": 1.0}  # of the published stage-2 recipes


def retrieval_run_model() -> UMTForVideoTextPreTraining:
    """What a retrieval run saves: the class of stage 2 without its heads."""
    fields = tiny_retrieval_model().config.to_dict() | {"mlm_weight": 0.0, "uta_weight": 0.0}
    return UMTForVideoTextPreTraining(UMTVideoTextConfig.from_dict(fields))


MODELS = {
    "stage 2": tiny_stage2,
    "retrieval": tiny_retrieval_model,
    "retrieval run": retrieval_run_model,
    "question answering": tiny_answerer,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder and an official file of every model, and a stage-1 model."""
    folder = tmp_path_factory.mktemp("starts")
    for name, make in MODELS.items():
        save_tiny(make(), folder / name)
        if name != "retrieval run":  # the layout has no such file
            torch.save(official_state_dict(make()), folder / f"{name}.pth")
    UMTForPreTraining(tiny_stage2().config.vision_config).save_pretrained(folder / "stage 1")
    return folder


@pytest.fixture(params=["", ".pth"], ids=["folder", "official"])
def start(request, folder, monkeypatch):
    """A function from a model's name to its folder or official file."""
    if request.param:
        configs = {str(folder / f"{name}.pth"): make().config for name, make in MODELS.items()}
        convert = video_text_start.convert_umt_checkpoint  # which can't read head counts off a file
        monkeypatch.setattr(video_text_start, "convert_umt_checkpoint", lambda name: convert(name, configs[name]))
    return lambda name: str(folder / f"{name}{request.param}")


def load_answerer(init_from: str, **fields) -> UMTForVideoQuestionAnswering:
    run = question_answering_run.QuestionAnsweringRun(init_from=init_from, **fields)
    return question_answering_run.load_model(run)


def load_stage2(init_from: str, **model) -> UMTForVideoTextPreTraining:
    return video_text_run.load_video_text_model(video_text_run.VideoTextRun(init_from=init_from, model=model))


def test_question_answering_continues_with_its_decoder_and_head(start, capsys):
    model = load_answerer(start("question answering"), num_frames=5, model={"drop_path_rate": 0.1})
    expected = tiny_answerer()
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert (model.config.num_frames, model.config.vision_config.drop_path_rate) == (5, 0.1)
    assert (expected.config.num_frames, model.dtype) == (2, torch.float32)
    assert model.lm_head.decoder.weight is model.text_decoder.embeddings.word_embeddings.weight
    assert "new weights" not in capsys.readouterr().out


def test_question_answering_from_stage_2_has_no_new_weight(start, capsys):
    model = load_answerer(start("stage 2"), num_frames=5)
    expected = UMTForVideoQuestionAnswering.from_video_text(tiny_stage2())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.config.num_frames == 5 and "new weights" not in capsys.readouterr().out


def test_stage_2_continues_from_stage_2(start):
    model = load_stage2(start("stage 2"), vtm_hard_negatives=False, **OBJECTIVES)
    for name, tensor in tiny_stage2().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert not model.config.vtm_hard_negatives


def test_stage_2_from_retrieval_trains_the_objectives_whose_heads_exist(start):
    for name in ("retrieval", "retrieval run") if not start("x").endswith(".pth") else ("retrieval",):
        model = load_stage2(start(name), mlm_weight=0.0, uta_weight=0.0)
        assert not hasattr(model, "mlm_head") and not hasattr(model, "decoders")


@pytest.mark.parametrize(
    ("load", "name", "lacking"),
    [
        (load_answerer, "retrieval", "mlm_head"),
        (lambda name: load_stage2(name, **OBJECTIVES), "retrieval", "decoders, mlm_head"),
        (lambda name: load_stage2(name, uta_weight=0.0, mlm_weight=1.0), "retrieval", "mlm_head"),
        (lambda name: load_stage2(name, uta_weight=1.0, mlm_weight=0.0), "retrieval", "decoders"),
        (load_stage2, "question answering", "decoders, mlm_head, video_text.matching_head, video_text.pool_norm"),
    ],
)
def test_missing_parts_are_named(load, name, lacking, start):
    with pytest.raises(ValueError, match=rf"it lacks {lacking}(\. |, | and)") as error:
        load(start(name))
    assert str(error.value).startswith(f"{start(name)}, a UMT") and "\n" not in str(error.value)


@pytest.mark.parametrize("load", [load_answerer, lambda name: load_stage2(name, **OBJECTIVES)])
def test_what_a_retrieval_run_saved_lacks_the_same_parts(load, folder):
    with pytest.raises(ValueError, match=r"it lacks (decoders, )?mlm_head"):
        load(str(folder / "retrieval run"))


def test_other_models_are_refused(folder):
    for load in (
        load_answerer,
        lambda name: retrieval_run.load_retrieval_model(retrieval_run.RetrievalRun(init_from=name)),
    ):
        with pytest.raises(ValueError, match="stage 1 is not a"):
            load(str(folder / "stage 1"))


# --- vocabulary -----------------------------------------------------------------------------------------------------


def test_a_run_records_the_vocabulary_or_refuses_it_with_both_names(tmp_path):
    folder = save_tiny_retrieval_model(tmp_path / "model")
    processor = UMTProcessor.from_pretrained(folder)
    config = UMTVideoTextConfig.from_pretrained(folder)
    record_run_vocabulary(config, processor, "model", None)
    assert config.vocabulary_hash == vocabulary_hash(processor.tokenizer)
    other = UMTProcessor.from_bert(write_vocabulary(tmp_path, [*WORDS[1:], WORDS[0]]))
    with pytest.raises(ValueError, match=r"of someone/bert \(.* is not that of the model that starts from x"):
        record_run_vocabulary(config, other, "x", "someone/bert")


def test_changes_are_merged_field_by_field():
    settings = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    assert changed(settings, {"b": {"d": {"e": 4}}}) == {"a": 1, "b": {"c": 2, "d": {"e": 4}}}
    assert settings == {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
