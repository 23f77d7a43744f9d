"""Training for question answering: weighted answers, broken videos, evaluation, and a run from a recipe."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tiny_question_answering import ANSWERS, save_tiny, tiny_answerer, tiny_stage2, write_questions
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

from modeling_umt import vocabulary_hash
from processing_umt import UMTProcessor
from processing_umt.augmentation_umt import augment_for_video_text
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training import UMTQuestionAnsweringArguments, UMTQuestionAnsweringTrainer, cli, finetune
from umt_training.data.question_records import load_question_records
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.evaluation.question_answering import evaluate_questions
from umt_training.runs.run_clips import evaluation_clips
from umt_training.trainers.question_answering import QuestionCollator, accuracy


@pytest.fixture(scope="module")
def stage2(tmp_path_factory) -> Path:
    return save_tiny(tiny_stage2(), tmp_path_factory.mktemp("models") / "stage2")


@pytest.fixture(scope="module")
def processor(stage2) -> UMTProcessor:
    return UMTProcessor.from_pretrained(stage2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_questions(tmp_path_factory.mktemp("data"))


def clips(data: Path, **options) -> VideoClipDataset:
    return VideoClipDataset(
        load_question_records(data / "questions.json"),
        num_frames=2,
        sample_frames=partial(sample_training_clip, sampling="middle"),
        transform=partial(augment_for_video_text, size=32),
        **options,
    )


# --- batches --------------------------------------------------------------------------------------------------------


def sample(question: str, answer: str | list[str]) -> dict:
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    return {"pixel_values_videos": pixels, "question": question, "answer": answer, "broken": []}


def test_a_batch_has_every_distinct_answer_once_with_its_weight(processor):
    samples = [sample("What's the man doing?", ["yes", "no", "no", "yes", "no"]), sample("A dog?", "a dog")]
    batch = QuestionCollator(processor, ANSWERS)(samples)
    assert batch["answers_per_question"].tolist() == [2, 1]
    torch.testing.assert_close(batch["answer_weights"], torch.tensor([0.4, 0.6, 1.0]))
    encoded = processor.encode_answers(["yes", "no", "a dog"], return_tensors="pt")
    assert torch.equal(batch["labels"], encoded["input_ids"])
    assert torch.equal(batch["decoder_attention_mask"], encoded["attention_mask"])
    cleaned = processor(text=["whats the man doing", "a dog"], return_tensors="pt")
    assert torch.equal(batch["input_ids"], cleaned["input_ids"])
    assert batch["answer_ids"].tolist() == [ANSWERS.index("no"), ANSWERS.index("a dog")]
    with pytest.raises(ValueError, match="load_question_records"):
        QuestionCollator(processor)([{"pixel_values_videos": torch.zeros(2, 3, 32, 32)}])


def test_a_broken_video_is_replaced_together_with_its_question_and_answer(data):
    dataset = clips(data)
    rows = json.loads((data / "questions.json").read_text())
    sample = dataset[0, 2]
    replacement = rows[sample["video_index"]]
    assert rows[2]["video"] == "clip1.mp4" and replacement["video"] != "clip1.mp4"
    assert (sample["question"], sample["answer"]) == (replacement["question"], replacement["answer"])
    assert [reason for _, reason in sample["broken"]][:1] == ["not_a_video"]


# --- trainer --------------------------------------------------------------------------------------------------------


def make_trainer(folder: Path, data: Path, processor: UMTProcessor, **options) -> UMTQuestionAnsweringTrainer:
    arguments = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "warmup_epochs": 0,
        "max_broken_share": 0.9,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 1,
    }
    known = {name: options.pop(name) for name in ("eval_dataset", "candidates") if name in options}
    args = UMTQuestionAnsweringArguments(output_dir=str(folder), **arguments | options)
    return UMTQuestionAnsweringTrainer(tiny_answerer(), args, processor, train_dataset=clips(data, seed=3), **known)


def test_the_loss_is_the_models_and_the_learning_rate_is_absolute(tmp_path, data, processor):
    trainer = make_trainer(tmp_path, data, processor, learning_rate=3e-4, checkpoint_blocks=1, checkpoint_text=True)
    dataset = trainer.train_dataset
    batch = trainer.data_collator([dataset[0, 0], dataset[0, 7]])
    model = trainer.model.eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels", "answer_weights")}
    clip = trainer.pixel_values(batch["pixel_values_videos"])
    expected = model(**inputs, pixel_values_videos=clip, answers_per_question=batch["answers_per_question"]).loss
    torch.testing.assert_close(trainer.compute_loss(model, batch), expected)
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert rates[0] == pytest.approx(3e-4) and "for any batch size" in trainer.describe_learning_rate()
    checkpointed = [layer for layer in trainer.model.vision_model.layers if layer.gradient_checkpointing]
    assert len(checkpointed) == 1 and trainer.model.text_decoder.encoder.layer[0].gradient_checkpointing


def test_evaluation_equals_umt_evaluate(tmp_path, data, processor):
    readable = tmp_path / "readable.json"
    rows = json.loads((data / "questions.json").read_text())
    rows = [row | {"video": str(data / row["video"])} for row in rows if row["video"] != "clip1.mp4"]
    readable.write_text(json.dumps(rows))
    records = load_question_records(readable)
    dataset = evaluation_clips(records, 2, processor.video_processor)
    candidates = ANSWERS[1:]  # without one of the correct answers
    trainer = make_trainer(tmp_path, data, processor, eval_dataset=dataset, candidates=candidates)
    metrics = trainer.evaluate()
    scores = evaluate_questions(trainer.model, processor, records, candidates, num_workers=0)
    assert metrics["eval_accuracy"] == pytest.approx(scores.accuracy, abs=0.01) and 0 < scores.accuracy < 100
    possible = scores.protocol["possible_accuracy"]
    assert metrics["eval_possible_accuracy"] == pytest.approx(possible, abs=0.01) and 0 < possible < 100
    with pytest.raises(ValueError, match="candidates"):
        make_trainer(tmp_path, data, processor, eval_dataset=dataset)
    trainer = make_trainer(tmp_path, data, processor, eval_dataset=dataset, candidates=candidates, bf16=True)
    dtypes = []
    first = trainer.model.vision_model.layers[0].mlp.fc1
    first.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    trainer.evaluate()
    assert {*dtypes} == {torch.bfloat16}


def test_an_answer_that_is_not_a_candidate_counts_as_wrong():
    prediction = SimpleNamespace(predictions=np.array([1, 2, 0, 0]), label_ids=np.array([1, 0, -1, 0]))
    assert accuracy(prediction) == {"accuracy": 50.0, "possible_accuracy": 75.0}


def test_candidates_that_are_equal_for_the_model(tmp_path, data, processor):
    """The first is predicted, as in `umt evaluate`, and the line on the data counts them."""
    rows = json.loads((data / "questions.json").read_text())
    rows = [row | {"video": str(data / row["video"])} for row in rows if row["video"] != "clip1.mp4"]
    (tmp_path / "readable.json").write_text(json.dumps(rows))
    records = load_question_records(tmp_path / "readable.json")
    candidates = ["YES", "Yes", *ANSWERS]
    dataset = evaluation_clips(records, 2, processor.video_processor)
    trainer = make_trainer(tmp_path, data, processor, eval_dataset=dataset, candidates=candidates)
    assert "answers: 7 candidates, 3 of which are equal to another one for the model" in trainer.describe_data()
    predicted = {*trainer.predict(dataset).predictions.tolist()}
    scores = evaluate_questions(trainer.model, processor, records, candidates, num_workers=0)
    assert {candidates[index] for index in predicted} == {*scores.predictions} and not predicted & {1, 2}
    trainer = make_trainer(tmp_path, data, processor, eval_dataset=dataset, candidates=ANSWERS)
    assert trainer.describe_data().endswith("answers: 5 candidates")


# --- a run from a recipe --------------------------------------------------------------------------------------------


def test_a_run_from_a_recipe(tmp_path, data, stage2, capsys):
    recipe = {
        "task": "question_answering",
        "data": str(data / "questions.json"),
        "eval_data": str(data / "questions.json"),
        "answers": str(data / "answers.json"),
        "init_from": str(stage2),
        "num_frames": 3,
        "max_text_length": 10,
        "model": {"drop_path_rate": 0.1},
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "max_broken_share": 0.9,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
        "report_to": "none",
        "disable_tqdm": True,
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    output = tmp_path / "out"
    assert cli.main(["finetune", "--config", str(tmp_path / "mine.yaml"), "--output_dir", str(output)]) == 0
    assert "possible_accuracy 100" in capsys.readouterr().out
    processor = AutoProcessor.from_pretrained(output)
    model = AutoModelForVisualQuestionAnswering.from_pretrained(output)
    assert type(processor) is UMTProcessor and processor.max_text_length == 10
    assert processor.video_processor.num_frames == model.config.vision_config.num_frames == 3
    assert model.config.vision_config.drop_path_rate == 0.1
    assert model.config.vocabulary_hash == vocabulary_hash(processor.tokenizer)
    card = ModelCard.load(output / "README.md")
    assert card.data.pipeline_tag == "visual-question-answering" and "rank_answers" in card.text
    assert "choosing from 5 answers, which contain 100.00 % of the correct ones." in card.text
    assert "9 questions" in card.text and card.data.eval_results[0].metric_type == "accuracy"
    # a complete run does not change, and is not continued with another schedule
    again = ["finetune", "--config", str(tmp_path / "mine.yaml"), "--output_dir", str(output)]
    before = (output / "model.safetensors").read_bytes()
    assert cli.main(again) == 0 and "is complete" in capsys.readouterr().out
    assert cli.main([*again, "--num_train_epochs", "3"]) == 1 and "`num_train_epochs` was" in capsys.readouterr().err
    assert (output / "model.safetensors").read_bytes() == before


def test_a_run_without_a_correct_answer_ends_with_its_last_weights(tmp_path, data, stage2, monkeypatch, capsys):
    nothing_right = {"accuracy": 0.0, "possible_accuracy": 100.0}
    monkeypatch.setattr("umt_training.trainers.question_answering.accuracy", lambda prediction: nothing_right)
    recipe = {
        "task": "question_answering",
        "data": str(data / "questions.json"),
        "eval_data": str(data / "questions.json"),
        "answers": str(data / "answers.json"),
        "init_from": str(stage2),
        "num_frames": 2,
        "max_text_length": 10,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "max_broken_share": 0.9,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
        "report_to": "none",
        "disable_tqdm": True,
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    trainer = finetune(str(tmp_path / "mine.yaml"), [])
    printed = capsys.readouterr().out
    assert printed.count("accuracy is 0 %, so this is not the best evaluation") == 2
    assert "saved weights, evaluation at step 4/4" in printed and "accuracy 0, possible_accuracy 100" in printed
    assert trainer.state.best_model_checkpoint is None and not trainer.state.best_global_step
    last = load_file(tmp_path / "out" / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(tensor, last[name]) for name, tensor in trainer.model.state_dict().items() if name in last)


def test_missing_keys_of_a_recipe_are_reported_before_the_first_step(tmp_path, data, stage2, capsys):
    (tmp_path / "mine.yaml").write_text("task: question_answering\n")
    (tmp_path / "other.json").write_text('["Yes", "No"]')
    command = ["finetune", "--config", str(tmp_path / "mine.yaml"), "--output_dir", str(tmp_path / "out")]
    given = ["--data", str(data / "questions.json")]
    for arguments, message in {
        (): "No `data` given",
        (*given,): "No `init_from` given",
        (*given, "--init_from", "b16_25m.pth", "--eval_split", "val"): "--answers FILE",
        (*given, "--init_from", str(stage2), "--model", '{"dropout": 1}'): "`model` names dropout",
        (
            *(*given, "--init_from", str(stage2), "--eval_data", str(data / "questions.json")),
            *("--answers", str(tmp_path / "other.json")),
        ): "None of the 9 annotated answers",
    }.items():
        assert cli.main([*command, *arguments]) == 1
        assert message in capsys.readouterr().err
