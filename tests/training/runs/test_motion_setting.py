"""The key `motion_drop_ratio` of recipes: what is trained, saved and refused."""

import json

import pytest
import torch
from finetuning_tools import save_clips_of_classes, save_stage1, tiny_classifier, write_recipe
from tiny_question_answering import save_tiny, tiny_answerer, tiny_stage2

from modeling_umt import UMTForVideoClassification
from umt_training import finetune, pretrain
from umt_training.runs.detection_run import DetectionRun, load_detector
from umt_training.runs.finetuning_run import FineTuningRun, load_classifier
from umt_training.runs.motion_setting import with_motion_drop
from umt_training.runs.question_answering_run import QuestionAnsweringRun
from umt_training.runs.question_answering_run import load_model as load_answerer
from umt_training.runs.retrieval_run import RetrievalRun, load_retrieval_model


def test_a_run_trains_and_saves_a_model_that_drops_tokens(tmp_path, monkeypatch):
    clips, start = save_clips_of_classes(tmp_path / "clips"), save_stage1(tmp_path / "stage1")
    recipe = write_recipe(tmp_path / "recipe.yaml", init_from=str(start), data=str(clips))
    encoded = []
    encode = UMTForVideoClassification.forward

    def forward(self, *args, **kwargs):
        handle = self.umt.layers[0].register_forward_hook(lambda _, inputs, output: encoded.append(output.shape[1]))
        outputs = encode(self, *args, **kwargs)
        handle.remove()
        return outputs

    monkeypatch.setattr(UMTForVideoClassification, "forward", forward)
    options = ["--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--motion-drop-ratio", "0.4"]
    trainer = finetune(recipe, options)
    assert set(encoded) == {4}  # int(0.6 * 2 * 2 * 2)
    assert trainer.model.config.motion_drop_ratio == 0.4
    assert json.loads((tmp_path / "out" / "config.json").read_text())["motion_drop_ratio"] == 0.4
    assert "| tokens dropped by motion | 0.4 |" in (tmp_path / "out" / "README.md").read_text()

    # another run keeps the ratio of its start, or sets its own
    start = str(tmp_path / "out")
    for ratio, expected in ((None, 0.4), (0.0, 0.0), (0.2, 0.2)):
        model = load_classifier(FineTuningRun(init_from=start, motion_drop_ratio=ratio), ["jump", "run"])
        assert model.config.motion_drop_ratio == expected
    adapted = FineTuningRun(init_from=start, preset="attentive", motion_drop_ratio=0.2)
    model = load_classifier(adapted, ["jump", "run"])
    assert (model.config.pooling, model.config.motion_drop_ratio) == ("attention", 0.2)
    assert model(torch.randn(1, 2, 3, 32, 32)).logits.shape == (1, 2)


def test_video_encoders_of_texts_and_questions_drop_tokens(tmp_path):
    stage2, answerer = save_tiny(tiny_stage2(), tmp_path / "a"), save_tiny(tiny_answerer(), tmp_path / "b")
    for model in (
        load_retrieval_model(RetrievalRun(init_from=str(stage2), num_frames=4, motion_drop_ratio=0.4)),
        load_answerer(QuestionAnsweringRun(init_from=str(stage2), num_frames=4, motion_drop_ratio=0.4)),
        load_answerer(QuestionAnsweringRun(init_from=str(answerer), num_frames=4, motion_drop_ratio=0.4)),
    ):
        assert (model.config.vision_config.motion_drop_ratio, model.config.vision_config.num_frames) == (0.4, 4)


def test_a_detector_starts_from_a_classifier_that_drops_tokens(tmp_path):
    tiny_classifier(motion_drop_ratio=0.4).save_pretrained(tmp_path)
    model = load_detector(DetectionRun(init_from=str(tmp_path)), ["sit", "talk"])
    assert model.config.motion_drop_ratio == 0.0
    fields = {"motion_drop_ratio": 0.4}
    with pytest.raises(ValueError, match="Action detection requires all tokens"):
        load_detector(DetectionRun(init_from=str(tmp_path), model=fields), ["sit", "talk"])


def test_one_ratio_is_given():
    assert with_motion_drop({"num_frames": 4}, None) == {"num_frames": 4}
    assert with_motion_drop({"motion_drop_ratio": 0.4}, 0.4) == {"motion_drop_ratio": 0.4}
    with pytest.raises(ValueError, match=r"`motion_drop_ratio` is 0.0, and 0.4 among the fields of the model"):
        with_motion_drop({"motion_drop_ratio": 0.4}, 0.0)


def test_ratios_that_have_no_effect_or_meaning_are_refused(tmp_path):
    output = ["--output_dir", str(tmp_path / "out"), "--data", "clips"]
    for start, recipe, overrides, message in (
        (
            pretrain,
            "umt_b16_k710_stage1",
            ["--model", "{motion_drop_ratio: 0.4}"],
            "`model` sets .* no effect in pre-tr",
        ),
        (
            pretrain,
            "umt_b16_5m_stage2",
            ["--vision", "{motion_drop_ratio: 0.4}"],
            "`vision` sets .* no effect in pre-tr",
        ),
        (finetune, "small_data", ["--motion-drop-ratio", "1"], r"`motion_drop_ratio` must be in \[0, 1\), but is 1.0"),
        (finetune, "small_data", ["--motion-drop-ratio", "40"], "for 40 % give 0.4"),
        (finetune, "small_detection", ["--motion-drop-ratio", "0.4"], "Unknown keys: motion_drop_ratio"),
    ):
        options = overrides + (output[:2] if recipe.endswith("stage2") else output)
        with pytest.raises(ValueError, match=message):
            start(recipe, options)
