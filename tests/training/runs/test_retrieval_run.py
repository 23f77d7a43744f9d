"""Retrieval runs from a recipe: the published recipes, a tiny run with its output and metrics, starts, errors."""

import json
import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import yaml
from bert_vocabulary import write_vocabulary
from tiny_classifier import save_noise
from tiny_video_text_retrieval import save_tiny_retrieval_model, tiny_retrieval_model
from transformers import AutoModel, AutoProcessor

from modeling_umt import UMTForVideoTextPreTraining, vocabulary_hash
from modeling_umt.convert_umt_checkpoints import official_state_dict
from umt_training import finetune
from umt_training.cli import main
from umt_training.data.video_records import load_video_records
from umt_training.evaluation.retrieval import evaluate_retrieval, retrieval_set
from umt_training.runs.recipes import RECIPES_FOLDER, parse_recipe, read_recipe
from umt_training.runs.retrieval_run import RetrievalRun, load_retrieval_model, load_training_pairs, run_facts
from umt_training.trainers.video_text import UMTVideoTextArguments

COLUMNS = ("length", "rate", "epochs", "warmup", "drop_path", "r1", "paragraph", "trim", "several")
# values of the official scripts and results of the model zoo for 25M; B/16, then L/16
# fmt: off
PUBLISHED = {
    "msrvtt": ((32, 1e-5, 10, 1, 0.2, 51.0, False, None, False), (32, 2e-5, 7, 1, 0.3, 58.8, False, None, False)),
    "didemo": ((64, 2e-5, 12, 1, 0.1, 61.6, True, 30, False), (64, 4e-5, 5, 1, 0.2, 70.4, True, 30, False)),
    "activitynet": (
        (150, 4e-5, 20, 1, 0.1, 58.3, True, None, False), (150, 4e-5, 20, 1, 0.2, 66.8, True, None, False),
    ),
    "lsmdc": ((96, 2e-5, 10, 1, 0.2, 32.7, False, None, False), (96, 2e-5, 8, 1, 0.2, 43.0, False, None, False)),
    "msvd": ((64, 1e-5, 5, 0, 0.2, 50.8, False, None, False), (64, 1e-5, 3, 0, 0.3, 58.2, False, None, False)),
    "ssv2_label": ((25, 5e-5, 10, 0, 0.1, 64.2, False, None, True), (25, 4e-5, 10, 0, 0.2, 73.3, False, None, True)),
    "ssv2_template": ((25, 1e-4, 10, 1, 0.1, 87.9, False, None, True), (25, 1e-4, 5, 1, 0.2, 90.8, False, None, True)),
}
# fmt: on
CASES = [
    (f"umt_{size}_{name}_retrieval", dict(zip(COLUMNS, row, strict=True)))
    for name, rows in PUBLISHED.items()
    for size, row in zip(("b16", "l16"), rows, strict=True)
]


@pytest.fixture(autouse=True)
def evaluate_cache(tmp_path, monkeypatch):
    """`evaluate` creates a folder for every metric; the tests use a temporary one."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


@pytest.mark.parametrize(("name", "published"), CASES)
def test_published_recipes(name, published, tmp_path):
    run, args = parse_recipe(read_recipe(name), ["--output_dir", str(tmp_path)], RetrievalRun, UMTVideoTextArguments)
    size = name.split("_")[1]
    assert run.task == "retrieval" and run.init_from == f"OpenGVLab/UMT:multi_modality/{size}_25m.pth"
    assert run.text == f"google-bert/bert-{'base' if size == 'b16' else 'large'}-uncased"
    assert (run.num_frames, run.num_reranked, run.max_text_length) == (12, 128, published["length"])
    assert (run.paragraph, run.trim_seconds, run.several_videos) == tuple(
        published[key] for key in ("paragraph", "trim", "several")
    )
    assert run.vision == {"drop_path_rate": published["drop_path"]}
    assert run.model == {"vtc_weight": 1, "vtm_weight": 1}
    assert (args.learning_rate, args.num_train_epochs, args.warmup_epochs) == tuple(
        published[key] for key in ("rate", "epochs", "warmup")
    )
    assert (args.learning_rate_floor, args.weight_decay, args.max_grad_norm) == (0.01, 0.02, 0)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (args.per_device_train_batch_size, args.dataloader_num_workers, args.seed) == (32, 6, 42)
    assert args.bf16 and args.checkpoint_text and run.checkpoint_video
    assert args.load_best_model_at_end and args.metric_for_best_model == "mean_recall" and args.greater_is_better

    text = (RECIPES_FOLDER / f"{name}.yaml").read_text()
    head = text[: text.index("task:")]
    assert f"R@10 {published['r1']} / " in " ".join(re.sub(r"\n#\s+", " ", head).split())
    for promise in ("Hardware: 8 GPUs", f"--config {name}", "evaluate --task retrieval", "Departures:"):
        assert promise in head
    for flag, given in (("--paragraph", run.paragraph), ("--trim-seconds 30", run.trim_seconds == 30)):
        assert (flag in head) == given
    assert ("--several-videos" in head) == run.several_videos


# a tiny run


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A retrieval model, eight videos, and lists of six to train on and three to evaluate on, one broken."""
    folder = tmp_path_factory.mktemp("parts")
    save_tiny_retrieval_model(folder / "model")
    rows = []
    for index in range(8):
        save_noise(folder / f"{index}.mp4", index, num_frames=9, height=32, width=48)
        rows.append({"video": f"{index}.mp4", "caption": [f"a man {'runs' if index % 2 else 'rides'} fast", "a dog"]})
    (folder / "7.mp4").write_bytes(b"no video")
    (folder / "train.json").write_text(json.dumps(rows[:6]))
    (folder / "eval.json").write_text(json.dumps(rows[5:]))
    return folder


def tiny_recipe(parts: Path, output_dir: Path, **changes) -> str:
    recipe = {
        "task": "retrieval",
        "data": str(parts / "train.json"),
        "eval_data": str(parts / "eval.json"),
        "init_from": str(parts / "model"),
        "num_frames": 3,
        "max_text_length": 10,
        "num_reranked": 2,
        "vision": {"drop_path_rate": 0.1},
        "checkpoint_video": True,
        "output_dir": str(output_dir),
        "learning_rate": 1.0e-3,
        "num_train_epochs": 2,
        "warmup_epochs": 0,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "mean_recall",
        "greater_is_better": True,
        "checkpoint_text": True,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    }
    path = output_dir.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe | changes))
    return str(path)


def test_a_run_to_its_end(parts, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["finetune", "--config", tiny_recipe(parts, output)]) == 0
    assert "7.mp4 cannot be read (not_a_video)" in capsys.readouterr().out
    [state] = [json.loads(path.read_text()) for path in output.glob("trainer_state.json")]
    assert state["global_step"] == 6  # twelve pairs, two epochs
    training = [line for line in state["log_history"] if "loss_vtc" in line]
    assert training and all("loss_vtm" in line and "loss_mlm" not in line for line in training)
    evaluations = [line for line in state["log_history"] if "eval_mean_recall" in line]
    assert len(evaluations) == 2

    model, processor = AutoModel.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert type(model).__name__ == "UMTVideoTextModel"
    assert (model.config.num_frames, processor.video_processor.num_frames, processor.max_text_length) == (3, 3, 10)
    assert model.config.vocabulary_hash == vocabulary_hash(processor.tokenizer)
    assert (model.config.mlm_weight, model.config.uta_weight, model.config.vision_config.drop_path_rate) == (0, 0, 0.1)
    data = retrieval_set(load_video_records(parts / "eval.json"))
    scores = evaluate_retrieval(model, processor, data, num_reranked=2, num_workers=0, batch_size=8)
    best = max(evaluations, key=lambda line: line["eval_mean_recall"])
    for name, value in scores.metrics["reranked"].items():
        assert best[f"eval_{name}"] == pytest.approx(value)
    for name, value in scores.metrics["dual_encoder"].items():
        assert best[f"eval_dual_encoder_{name}"] == pytest.approx(value)
    assert best["eval_chance_r1"] == pytest.approx(50.0)  # two videos of two texts each
    card = (output / "README.md").read_text()
    assert "re-rank" in card and "train.json" in card

    # a finished run is not trained again
    assert main(["finetune", "--config", tiny_recipe(parts, output)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert (output / "README.md").read_text() == card


def test_without_evaluation(parts, tmp_path, capsys):
    overrides = ["--max_steps", "1", "--eval_data", "", "--max_text_length", "4"]
    trainer = finetune(tiny_recipe(parts, tmp_path / "run"), overrides)
    [note] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: captions of")]
    assert "train.json: of 12, " in note and "are cut to 4 tokens" in note
    assert trainer.state.global_step == 1 and not any("eval_mean_recall" in line for line in trainer.state.log_history)


@pytest.mark.parametrize(
    ("caption", "message"),
    [("xyzzy", "train.json: no word is in the vocabulary"), (None, "has no caption"), (["a", " "], "has the caption")],
)
def test_captions_by_which_nothing_is_meant_are_refused(caption, message, parts, tmp_path):
    rows = [{"video": str(parts / f"{number}.mp4"), "caption": caption or ""} for number in range(4)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        finetune(tiny_recipe(parts, tmp_path / "run"), ["--data", str(tmp_path / "train.json")])


@pytest.mark.parametrize("kind", ["folder", "pretraining", "official retrieval", "official stage 2"])
def test_every_start(kind, tmp_path, monkeypatch):
    """Weights are those of the start, and the heads of stage 2 are dropped."""
    expected = tiny_retrieval_model()
    start = tmp_path / "start"
    if kind == "folder":
        expected.save_pretrained(start)
    elif kind == "official retrieval":
        start = tmp_path / "start.pth"
        torch.save(official_state_dict(expected), start)
    else:
        model = UMTForVideoTextPreTraining(expected.config)
        model.video_text.load_state_dict(expected.state_dict())
        if kind == "pretraining":
            model.save_pretrained(start)
        else:
            start = tmp_path / "start.pth"
            torch.save(official_state_dict(model), start)
    if start.suffix == ".pth":
        from umt_training.runs import video_text_start

        convert = video_text_start.convert_umt_checkpoint  # which can't read head counts off a file
        monkeypatch.setattr(video_text_start, "convert_umt_checkpoint", lambda name: convert(name, expected.config))
    model = load_retrieval_model(RetrievalRun(init_from=str(start), num_frames=5))
    assert type(model) is UMTForVideoTextPreTraining and model.config.num_frames == 5
    assert not hasattr(model, "mlm_head") and not hasattr(model, "decoders")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.video_text.state_dict()[name], tensor), name


def test_pairs(parts, tmp_path):
    """A pair for each caption of a video, or one for all; positives share the video, or the caption."""

    args = UMTVideoTextArguments(output_dir=str(tmp_path), use_cpu=True)

    def pairs(**fields):
        run = RetrievalRun(**{"data": str(parts / "train.json"), "num_frames": 2} | fields)
        return load_training_pairs(run, args, 32).records

    each = pairs()
    assert len(each) == 12 and each[0]["caption"] == "a man rides fast" and each[1]["caption"] == "a dog"
    assert each[0]["match_id"] == each[1]["match_id"] != each[2]["match_id"]
    joined = pairs(paragraph=True)
    assert len(joined) == 6 and joined[1]["caption"] == "a man runs fast a dog"
    by_sentence = [{"video": pair["video"], "caption": pair["caption"]} for pair in each]
    (tmp_path / "sentences.json").write_text(json.dumps(by_sentence[::2] + by_sentence[1::2]))
    sentences = pairs(paragraph=True, data=str(tmp_path / "sentences.json"))
    assert list(sentences) == list(joined)
    shared = pairs(several_videos=True)
    assert shared[1]["match_id"] == shared[3]["match_id"] != shared[0]["match_id"] == shared[4]["match_id"]


def test_trimmed_training_clips(parts, tmp_path):
    """Frames come from the first seconds: four of nine frames at ten per second."""
    run = RetrievalRun(data=str(parts / "train.json"), num_frames=4, trim_seconds=0.4)
    seen = []
    dataset = load_training_pairs(run, UMTVideoTextArguments(output_dir=str(tmp_path), use_cpu=True), 32)
    sample = dataset.reader.sample_frames
    object.__setattr__(
        dataset.reader,
        "sample_frames",
        lambda **options: seen.append(options["num_video_frames"]) or sample(**options),
    )
    assert dataset[0]["pixel_values_videos"].shape == (4, 3, 32, 32) and seen == [4]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--data", ""], "No `data` given"),
        (["--vision", '{"depth": 3}'], "depth"),
        (["--model", '{"vtc": 3}'], "vtc, which UMTVideoTextConfig does not have"),
    ],
)
def test_errors(parts, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        finetune(tiny_recipe(parts, tmp_path / "run"), overrides)


def test_a_file_without_a_vocabulary(parts, tmp_path, monkeypatch):
    from umt_training.runs import video_text_start

    start = tmp_path / "start.pth"
    torch.save(official_state_dict(tiny_retrieval_model()), start)
    convert = video_text_start.convert_umt_checkpoint
    monkeypatch.setattr(
        video_text_start, "convert_umt_checkpoint", lambda name: convert(name, tiny_retrieval_model().config)
    )
    with pytest.raises(ValueError, match="has no vocabulary"):
        finetune(tiny_recipe(parts, tmp_path / "run"), ["--init_from", str(start)])
    vocabulary = write_vocabulary(tmp_path)
    trainer = finetune(
        tiny_recipe(parts, tmp_path / "run"),
        ["--init_from", str(start), "--text", str(vocabulary), "--max_steps", "1", "--eval_strategy", "no",
         "--save_strategy", "no", "--load_best_model_at_end", "false"],
    )  # fmt: skip
    assert np.isfinite(trainer.state.log_history[0]["loss"])


def test_facts_for_the_card(parts):
    data = str(parts / "train.json")
    facts = run_facts(RetrievalRun(data=data, eval_split="val", init_from="stage2", license="mit"))
    assert (facts.data, facts.eval_data, facts.starts) == ((data,), "train.json, split val", ("stage2",))
    assert facts.settings == {
        "started from": "stage2",
        "text encoder": None,
        "pairs that belong together": "of one video",
    }
    facts = run_facts(RetrievalRun(data=data, init_from="stage2", text="bert", several_videos=True))
    assert (facts.eval_data, facts.starts, facts.license) == (None, ("stage2", "bert"), None)
    assert facts.settings["pairs that belong together"] == "of one caption"
