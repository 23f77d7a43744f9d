"""The stage-2 trainer in one process: objectives, masks, optimiser, schedule, random choices, evaluation, errors."""

import numpy as np
import pytest
import torch
from tiny_pretraining import make_teacher
from tiny_video_text import (
    NUM_FRAMES,
    SIZE,
    caption,
    make_clips,
    make_model,
    make_processor,
    make_trainer,
    write_media,
)
from transformers import EvalPrediction

from umt_training import UMTVideoTextArguments, UMTVideoTextTrainer
from umt_training.trainers.video_text import VideoTextCollator, recall_both_ways


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


def batch_of(trainer, dataset, indices=(0, 1, 2, 3)):
    return trainer.data_collator([dataset[0, index] for index in indices])


def test_a_batch_has_token_ids_instead_of_captions(media, tmp_path):
    processor = make_processor(tmp_path)
    batch = VideoTextCollator(processor)([make_clips(media)[0, index] for index in (0, 5)])
    expected = processor(text=[caption(0), caption(5)], return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"]) and "caption" not in batch
    assert batch["attention_mask"].shape == (2, 8) and batch["match_ids"].tolist() == [0, 5]
    assert batch["pixel_values_videos"].shape == (2, NUM_FRAMES, 3, SIZE, SIZE)
    sample = make_clips(media)[0, 0]
    del sample["match_id"]
    with pytest.raises(ValueError, match="need a `caption` and a `match_id`"):
        VideoTextCollator(processor)([sample])


@pytest.mark.parametrize("off", [None, "vtc", "vtm", "mlm", "uta"])
def test_objectives_are_weighted_and_switched_off(media, tmp_path, off):
    weights = {"vtc_weight": 0.5, "vtm_weight": 2.0, "mlm_weight": 1.0, "uta_weight": 1.0}
    trainer = make_trainer(
        tmp_path, make_clips(media), make_model(**weights | ({} if off is None else {f"{off}_weight": 0})), max_steps=2
    )
    assert (trainer.teacher is None) == (off == "uta")
    assert trainer.args.ddp_find_unused_parameters == (off in ("vtc", "vtm"))
    trainer.train()
    lines = [line for line in trainer.state.log_history if "learning_rate" in line]
    names = [f"loss_{name}" for name in ("vtc", "vtm", "mlm", "uta") if name != off]
    for line in lines:
        assert {name for name in line if name.startswith("loss_")} == set(names)
        assert line["loss"] == pytest.approx(sum(line[name] for name in names), rel=1e-5)
        assert 0.001 <= line["temperature"] <= 0.5
    if off is None:
        plain = make_trainer(tmp_path, make_clips(media), make_model(), max_steps=2)
        plain.train()
        first = next(line for line in plain.state.log_history if "learning_rate" in line)
        for name in ("vtc", "vtm"):
            weight = weights[f"{name}_weight"]
            assert lines[0][f"loss_{name}"] == pytest.approx(weight * first[f"loss_{name}"], rel=1e-5)


def test_the_temperature_is_clamped_before_the_forward_pass(media, tmp_path):
    for value, expected in ((1e-4, 0.001), (0.3, 0.3), (2.0, 0.5)):
        trainer = make_trainer(tmp_path, make_clips(media))
        temperature = trainer.model.video_text.temperature
        temperature.data.fill_(value)
        trainer.compute_loss(trainer.model, batch_of(trainer, make_clips(media)))
        assert temperature.item() == pytest.approx(expected)


def test_images_have_their_own_mask_ratio(media, tmp_path):
    trainer = make_trainer(tmp_path, make_clips(media), image_mask_ratio=0.5)
    for suffix, visible in (("mp4", NUM_FRAMES * 4), ("png", 8)):  # of 16 tokens per frame
        _, outputs = trainer.compute_loss(trainer.model, batch_of(trainer, make_clips(media, suffix)), True)
        assert outputs.student_features.shape[2] == visible


def test_random_choices_are_functions_of_seed_step_and_process(media, tmp_path):
    trainer = make_trainer(tmp_path, make_clips(media))
    batch = batch_of(trainer, make_clips(media))
    losses = [trainer.compute_loss(trainer.model, batch).item() for _ in range(2)]
    assert losses[0] == losses[1]
    trainer.state.global_step = 1
    assert trainer.compute_loss(trainer.model, batch).item() != losses[0]


def test_the_official_groups_and_schedule(media, tmp_path):
    """One learning rate, for any batch size; no weight decay for vectors and biases; a floor of 1 %."""
    trainer = make_trainer(tmp_path, make_clips(media, number=8), learning_rate=2e-4, warmup_epochs=0.5)
    optimizer = trainer.create_optimizer()
    assert {group["lr"] for group in optimizer.param_groups} == {2e-4}
    decays = {
        id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    for name, parameter in trainer.model.named_parameters():
        expected = 0.0 if parameter.ndim == 1 or name.endswith(".bias") else 0.02
        assert decays[id(parameter)] == expected, name
    assert decays[id(trainer.model.video_text.temperature)] == 0.02
    schedule = trainer.create_scheduler(20, optimizer)
    factors = []
    for _ in range(21):
        factors.append(schedule.get_last_lr()[0] / 2e-4)
        optimizer.step()
        schedule.step()
    assert factors[0] == pytest.approx(0.01) and factors[10] == 1 and factors[20] == pytest.approx(0.01)
    assert factors[15] == pytest.approx(0.5)


def test_recall_counts_a_video_of_several_captions_once():
    videos = np.eye(3)[[0, 0, 1, 2]]
    texts = np.eye(3)[[0, 0, 1, 1]]  # the last caption is nearest to the second video
    found = recall_both_ways(EvalPrediction((videos, texts), np.array([7, 7, 8, 9])))
    assert found["text_to_video_r1"] == 75 and found["video_to_text_r5"] == 100
    assert found["chance_r1"] == pytest.approx(100 / 3, abs=0.01)


def test_evaluation_is_deterministic_and_without_masks(media, tmp_path):
    trainer = make_trainer(tmp_path, make_clips(media), eval_dataset=make_clips(media, number=7))
    first, second = trainer.evaluate(), trainer.evaluate()
    names = [name for name in first if "_r" in name and "runtime" not in name and "second" not in name]
    assert len(names) == 8 and all(first[name] == second[name] for name in names)
    assert first["eval_text_to_video_r10"] == 100 and first["eval_chance_r1"] == pytest.approx(14.29)


def test_evaluation_is_in_the_precision_of_training(media, tmp_path):
    trainer = make_trainer(tmp_path, make_clips(media), eval_dataset=make_clips(media, number=7), bf16=True)
    dtypes = []
    first = trainer.model.video_text.vision_model.layers[0].mlp.fc1
    first.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    trainer.evaluate()
    assert {*dtypes} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("fields", "teacher", "message"),
    [
        ({}, None, "no teacher is given"),
        ({"uta_weight": 0}, {}, "`uta_weight` of the model is 0, and a teacher is given"),
        ({}, {"projection_dim": 24}, "24 channels"),
    ],
)
def test_a_teacher_that_does_not_fit_is_an_error(tmp_path, fields, teacher, message):
    args = UMTVideoTextArguments(output_dir=str(tmp_path), use_cpu=True)
    teacher = None if teacher is None else make_teacher(**teacher)
    with pytest.raises(ValueError, match=message):
        UMTVideoTextTrainer(make_model(**fields), teacher, args, make_processor(tmp_path))


def test_sharding_is_an_error(media, tmp_path, sharded_trainers):
    with pytest.raises(ValueError, match="can't be trained under FSDP"):
        make_trainer(tmp_path, make_clips(media))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_learning_rate": 1.5e-4}, "`base_learning_rate` was given, but stage 2's learning rate is absolute"),
        ({"mask_type": "blocks"}, "`mask_type` must be one of"),
        ({"mask_type": "motion"}, "'motion' compares time steps, which the images .* one of attention, clip"),
        ({"contrastive_gradients": "local"}, "one of global, official"),
    ],
)
def test_invalid_arguments_are_errors(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        UMTVideoTextArguments(output_dir=str(tmp_path), use_cpu=True, **fields)
