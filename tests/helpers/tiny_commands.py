"""A tiny command line for every evaluation task, every trainer and every command on many videos, and the videos of a
process in it.

As a script of a launcher, `tiny_commands.py PARTS FOLDER` runs all of them in every process and writes their results.
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import evaluate
import tiny_masked_modeling
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from bert_vocabulary import write_vocabulary
from huggingface_hub import constants
from tiny_classifier import CLASSES, save_noise, save_tiny_classifier
from tiny_detection import save_tiny_action_detector, save_tiny_person_detector
from tiny_pretraining import STUDENT, make_student, make_teacher
from tiny_question_answering import ANSWERS, save_tiny, tiny_answerer, tiny_stage2
from tiny_video_text import TEXT
from tiny_video_text_retrieval import save_tiny_retrieval_model
from transformers import BertConfig, BertForMaskedLM
from video_files import write_tar

from umt_training.cli import main
from umt_training.corpus import class_scores
from umt_training.data import video_dataset
from umt_training.data.video_dataset import video_name
from umt_training.evaluation import clips, mistakes
from umt_training.search import indexing, windows
from umt_training.trainers.base_trainer import UMTTrainer

NUM_EVALUATED = 5  # an odd number; the third one is broken
NUM_SEARCHED = 5  # the fourth one is broken
NUM_TRAINED = 10  # two steps of four clips in an epoch; two clips are left out, or are not in the shards
STEPS, LAST = 4, 3  # of two epochs, and of the checkpoint

EVALUATIONS = ("classification", "retrieval", "question_answering", "multiple_choice")
CORPORA = ("classify", "embed")
DETECTIONS = ("detect", "detect_boxes_only")
SEARCHES = ("search", "search_object_store")  # the first one updates an index, the second one creates it
# whether the batch of a process may be split by accumulation without another result: a contrast spans a batch
TRAININGS = {
    "stage1": True, "stage1_stream": True, "stage2": False, "classification": True, "retrieval": False,
    "question_answering": True, "masked_modeling": True,
}  # fmt: skip


def write_parts(folder: Path) -> Path:
    """The models, videos and lists of all commands."""
    save_tiny_classifier(folder / "classifier")
    save_tiny_retrieval_model(folder / "retrieval")
    save_tiny(tiny_answerer(), folder / "answerer")
    save_tiny_action_detector(folder / "actions")
    save_tiny_person_detector(folder / "persons")
    start = tiny_stage2()
    start.config.text_config.hidden_dropout_prob = start.config.text_config.attention_probs_dropout_prob = 0.0
    save_tiny(start, folder / "stage2")
    make_student().save_pretrained(folder / "student")
    make_teacher().save_pretrained(folder / "teacher")
    for name, teacher in tiny_masked_modeling.make_teachers().items():
        teacher.save_pretrained(folder / f"{name}-teacher")
    BertForMaskedLM(BertConfig(**{k: v for k, v in TEXT.items() if k != "fusion_layer"})).save_pretrained(
        folder / "bert"
    )
    write_vocabulary(folder / "bert")
    for number in range(NUM_EVALUATED):
        save_noise(folder / "evaluated" / CLASSES[number % 3] / f"{number}.mp4", number, 6, 32, 48)
    broken = folder / "evaluated" / CLASSES[2] / "2.mp4"
    broken.write_bytes(b"no video")
    for number in range(NUM_TRAINED):
        save_noise(folder / "trained" / CLASSES[number % 2] / f"{number}.mp4", 100 + number, 6, 48, 64)
    for kind in ("trained", "evaluated"):
        rows = []
        for number, path in enumerate(sorted((folder / kind).glob("*/*.mp4"), key=lambda path: int(path.stem))):
            caption, answer = ("a man runs", "a dog on the bike", "two cars")[number % 3], ANSWERS[number % 3]
            rows.append({"video": str(path), "caption": caption, "question": f"the {caption}?", "answer": answer})
            rows[-1] |= {"question_id": f"q{number}"}
        (folder / f"{kind}.json").write_text(json.dumps(rows))
    choices = [row | {"caption": ["a man runs", "a dog", "two cars"], "answer": 0} for row in rows]
    (folder / "choices.json").write_text(json.dumps(choices))
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    for shard in range(4):  # two videos in each
        videos = [folder / "trained" / CLASSES[number % 2] / f"{number}.mp4" for number in (shard, shard + 4)]
        write_tar(folder / f"s-{shard}.tar", [(video.name, video.read_bytes()) for video in videos])
    write_searched(folder)
    return folder


def write_searched(folder: Path) -> None:
    """The videos of detections and searches, of which the fourth one is broken, and an earlier index of two of them.
    One of these has changed since, the other one is deleted."""
    videos = folder / "searched"
    save_noise(videos / "0.mp4", 200, 9, 32, 48)
    deleted = save_noise(videos / "deleted.mp4", 200, 6, 32, 48)
    with mock.patch.object(constants, "HF_HOME", str(folder / "home")):
        assert run_command(search_command(folder), folder / "search")["code"] == 0
    deleted.unlink()
    for number in range(NUM_SEARCHED):
        save_noise(videos / f"{number}.mp4", 300 + number, 6 + number, 32, 48)
    (videos / "3.mp4").write_bytes(b"no video")


def evaluation_command(task: str, parts: Path) -> list[str]:
    """Without `--device`: it is that of the machine."""
    models = {"classification": "classifier", "question_answering": "answerer"}
    data = {"classification": "evaluated", "multiple_choice": "choices.json"}.get(task, "evaluated.json")
    command = ["evaluate", "--task", task, "--model", str(parts / models.get(task, "retrieval"))]
    command += ["--data", str(parts / data), "--num-workers", "0", "--dtype", "float32"]
    options = {"classification": ["--clips", "2", "--crops", "1"], "retrieval": ["--reranked", "2"]}
    options["question_answering"] = ["--answers", str(parts / "answers.json")]
    return command + options.get(task, [])


def corpus_command(command: str, parts: Path) -> list[str]:
    """Of ten videos in parts of three."""
    model = str(parts / "classifier")
    return [command, str(parts / "trained"), "--model", model, "--batch-size", "3", "--num-workers", "0"]


def detection_command(name: str, parts: Path) -> list[str]:
    """Of five videos, of which one is broken."""
    command = ["detect", str(parts / "searched"), "--detector", str(parts / "persons")]
    if name == "detect_boxes_only":
        return [*command, "--boxes-only"]
    return [*command, "--model", str(parts / "actions"), "--threshold", "0"]


def search_command(parts: Path) -> list[str]:
    command = ["search", "a man runs", str(parts / "searched"), "--model", str(parts / "retrieval")]
    return [*command, "--window", "0.5", "--rerank", "2", "--num-workers", "0"]


def output_of(name: str, folder: Path) -> str:
    """The output of a command in a folder of outputs. An index in object storage is kept in a folder by LanceDB."""
    path = str(folder / name.removesuffix("_no_update"))
    return f"file-object-store://{path}" if name == "search_object_store" else path


def training_command(name: str, parts: Path, processes: int = 1, accumulation: int = 1) -> list[str]:
    """A run of two epochs with four clips in a step, in which nothing depends on the index of a process."""
    task, stream = name.removesuffix("_stream"), name.endswith("_stream")
    keys = {
        "task": task,
        "output_dir": "run", "num_train_epochs": 2, "warmup_epochs": 0, "save_steps": LAST, "logging_steps": 1,
        "per_device_train_batch_size": 4 // processes // accumulation, "gradient_accumulation_steps": accumulation,
        "dataloader_num_workers": 0, "disable_tqdm": True, "report_to": "none",
    }  # fmt: skip
    shards, table = f"{parts}/s-{{0..3}}.tar", str(parts / "trained.json")
    if task == "stage1":
        keys |= {"data": shards if stream else str(parts / "trained"), "samples_per_epoch": 8, "mask_ratio": 0.75}
        keys |= {"teacher": str(parts / "teacher"), "model": STUDENT, "base_learning_rate": 0.05}
    elif task == "masked_modeling":
        keys |= {"data": str(parts / "trained"), "mask_ratio": 0.75, "frame_stride": 1, "base_learning_rate": 0.05}
        keys |= {"model": tiny_masked_modeling.STUDENT}
        keys |= {"teachers": {name: str(parts / f"{name}-teacher") for name in ("image", "video")}}
    elif task == "stage2":
        keys |= {"video_data": [table], "text": str(parts / "bert")}
        keys |= {"init_from": str(parts / "student"), "teacher": str(parts / "teacher"), "mask_ratio": 0.75}
        # negatives of matching and masked words are sampled by each process
        keys |= {"model": {"text_config": {"fusion_layer": 2}, "vtm_weight": 0.0, "mlm_weight": 0.0}}
        keys |= {"num_frames": 2, "max_text_length": 8, "learning_rate": 1e-3}
    elif task == "classification":
        keys |= {"data": str(parts / "trained"), "init_from": str(parts / "student"), "base_learning_rate": 0.05}
        keys |= {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}  # mixed within a process
    elif task == "retrieval":
        keys |= {"data": table, "init_from": str(parts / "stage2"), "model": {"vtm_weight": 0.0}}
        keys |= {"num_frames": 2, "max_text_length": 8, "learning_rate": 1e-3}
    else:
        keys |= {"data": table, "init_from": str(parts / "stage2"), "num_frames": 2, "max_text_length": 8}
        keys |= {"learning_rate": 1e-3}
    recipe = parts / f"{name}-{processes}-{accumulation}.yaml"
    recipe.write_text(json.dumps(keys))  # JSON is YAML; all processes write the same
    return ["pretrain" if task in ("stage1", "stage2", "masked_modeling") else "finetune", "--config", str(recipe)]


def run_command(command: list[str], output: Path | str) -> dict:
    """Runs a command that writes to `output` in this process: its exit code, and the names of the videos that it
    evaluated, or the indices of those that it trained on."""
    seen = []

    is_training = command[0] in ("pretrain", "finetune")

    def open_video(video):
        if not is_training:
            seen.append(Path(video_name(video)).name)
        return real_open(video)

    def training_step(trainer, model, inputs, *args, **kwargs):
        seen.extend(inputs["video_index"].tolist())
        return real_step(trainer, model, inputs, *args, **kwargs)

    real_open, real_step = video_dataset.open_video, UMTTrainer.training_step
    options = {"pretrain": "--output-dir", "finetune": "--output-dir", "search": "--index"}
    with (
        mock.patch.object(class_scores, "open_video", open_video),
        mock.patch.object(clips, "open_video", open_video),
        mock.patch.object(mistakes, "open_video", real_open),  # the frames on the page
        mock.patch.object(windows, "open_video", open_video),
        mock.patch.object(video_dataset, "open_video", open_video),
        mock.patch.object(indexing, "_COMMIT_SECONDS", 0.0),
        mock.patch.object(indexing, "_COMMIT_SHARE", 0.0),
        mock.patch.object(UMTTrainer, "training_step", training_step),
    ):
        code = main([*command, options.get(command[0], "--output"), str(output)])
    return {"code": code, "seen": seen}


def run_in_process_group(parts: Path, folder: Path) -> None:
    """All commands, one after the other, in a process of the launcher; only the first one joins the process group."""
    evaluate.config.HF_METRICS_CACHE = str(folder / f"metrics-{os.getpid()}")
    constants.HF_HOME = str(folder / "home")
    commands = {f"evaluate-{task}": evaluation_command(task, parts) for task in EVALUATIONS}
    commands |= {f"corpus-{name}": corpus_command(name, parts) for name in CORPORA}
    commands |= {name: detection_command(name, parts) for name in DETECTIONS}
    commands |= {name: search_command(parts) for name in SEARCHES}
    commands["search_no_update"] = [*search_command(parts), "--no-update"]
    commands |= {f"train-{name}": training_command(name, parts, processes=2) for name in TRAININGS}
    with mock.patch.object(PartialState, "destroy_process_group"):
        for name, command in commands.items():
            result = run_command(command, output_of(name, folder))
            state = PartialState()
            result["processes"] = state.num_processes
            (folder / f"{name}-{state.process_index}.json").write_text(json.dumps(result))
            state.wait_for_everyone()
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_in_process_group(*map(Path, sys.argv[1:]))
