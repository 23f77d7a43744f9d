"""Ranges of numeric arguments: values outside, NaN included, are errors before a run loads anything."""

import pytest

from umt_training.runs.finetuning_run import FineTuningRun
from umt_training.runs.pretraining_run import PreTrainingRun
from umt_training.runs.question_answering_run import QuestionAnsweringRun
from umt_training.runs.retrieval_run import RetrievalRun
from umt_training.runs.video_text_run import VideoTextRun
from umt_training.trainers.argument_ranges import is_in
from umt_training.trainers.finetuning import UMTFineTuningArguments
from umt_training.trainers.pretraining import UMTPreTrainingArguments
from umt_training.trainers.question_answering import UMTQuestionAnsweringArguments
from umt_training.trainers.video_text import UMTVideoTextArguments

ARGUMENTS = (
    UMTPreTrainingArguments,
    UMTFineTuningArguments,
    UMTVideoTextArguments,
    UMTQuestionAnsweringArguments,
)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_train_epochs", -1.0, "must be a finite number above 0, but is -1.0"),
        ("num_train_epochs", float("inf"), "must be a finite number above 0, but is inf"),
        ("per_device_train_batch_size", 0, "must be at least 1, but is 0"),
        ("per_device_eval_batch_size", 0, "must be at least 1, but is 0"),
        ("gradient_accumulation_steps", 0, "must be at least 1, but is 0"),
        ("dataloader_num_workers", -1, "must be at least 0, but is -1"),
        ("warmup_epochs", -1.0, "must be at least 0, but is -1.0"),
        ("layer_decay", 0.0, r"must be in \(0, 1\], but is 0.0"),
        ("weight_decay", float("nan"), "must be at least 0, but is nan"),
        ("max_broken_share", 10.0, r"must be in \[0, 1\], but is 10.0; for 10 % give 0.1"),
    ],
)
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_outside_of_their_range_are_errors(kind, name, value, message, tmp_path):
    with pytest.raises(ValueError, match=f"^`{name}` {message}"):
        kind(output_dir=str(tmp_path), **{name: value})


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            UMTPreTrainingArguments,
            {"mask_ratio": 80},
            r"`mask_ratio` must be in \[0, 1\), but is 80; for 80 % give 0.8",
        ),
        (UMTPreTrainingArguments, {"mask_ratio": 1.0}, r"`mask_ratio` must be in \[0, 1\), but is 1.0"),
        (UMTPreTrainingArguments, {"mask_ratio": -0.1}, r"`mask_ratio` must be in \[0, 1\), but is -0.1"),
        (UMTVideoTextArguments, {"image_mask_ratio": 50}, "`image_mask_ratio` must be .*; for 50 % give 0.5"),
        (UMTVideoTextArguments, {"learning_rate": 0.0}, "`learning_rate` must be a finite number above 0"),
        (UMTVideoTextArguments, {"learning_rate_floor": 2.0}, "`learning_rate_floor` must be in"),
        (UMTFineTuningArguments, {"base_learning_rate": 0.0}, "`base_learning_rate` must be a finite number above 0"),
        (UMTFineTuningArguments, {"ema_decay": 1.0}, "`ema_decay` must be between 0 and 1, but is 1.0"),
        (UMTFineTuningArguments, {"checkpoint_blocks": -1}, "`checkpoint_blocks` must be at least 0"),
        (UMTQuestionAnsweringArguments, {"checkpoint_blocks": -1}, "`checkpoint_blocks` must be at least 0"),
    ],
)
def test_arguments_of_an_objective_outside_of_their_range_are_errors(kind, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kind(output_dir=str(tmp_path), **arguments)


@pytest.mark.parametrize(
    ("run", "fields", "message"),
    [
        (FineTuningRun, {"lora_rank": 0}, "`lora_rank` must be at least 1"),
        (PreTrainingRun, {"samples_per_epoch": 0}, "`samples_per_epoch` must be at least 1"),
        (PreTrainingRun, {"num_devices": 0}, "`num_devices` must be at least 1"),
        (VideoTextRun, {"num_frames": 0}, "`num_frames` must be at least 1"),
        (RetrievalRun, {"trim_seconds": 0.0}, "`trim_seconds` must be a finite number above 0"),
        (RetrievalRun, {"num_reranked": -1}, "`num_reranked` must be at least 0"),
        (QuestionAnsweringRun, {"scored": 0}, "`scored` must be at least 1"),
        (QuestionAnsweringRun, {"max_text_length": 0}, "`max_text_length` must be at least 2"),
    ],
)
def test_keys_of_a_run_outside_of_their_range_are_errors(run, fields, message):
    with pytest.raises(ValueError, match=message):
        run(**fields)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5, 1 - 1e-12), (-1e-12, 1, 80)),
        ("(0, 1]", (1e-12, 1), (0, 1 + 1e-12)),
        ("(0, 1)", (1e-12, 0.9999), (0, 1)),
        ("[0, 1]", (0, 1), (-1e-12, 1 + 1e-12)),
        ("[1, inf)", (1, 10**9), (0, -1, float("inf"))),
        ("(0, inf)", (1e-30, 3), (0, float("inf"))),
    ],
)
def test_the_ends_of_intervals(interval, inside, outside):
    assert all(is_in(value, interval) for value in inside)
    assert not any(is_in(value, interval) for value in (*outside, float("nan"), float("-inf")))
