"""The commands of `umt` on tiny models and videos, and what each leaves behind, for the parts that interrupt or load
them."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from modeling_umt import (
    UMTConfig,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTTeacherConfig,
    UMTTeacherModel,
    UMTVideoTextConfig,
    UMTVideoTextModel,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from processing_umt import UMTProcessor, UMTVideoProcessor
from umt_training.cli import main

from ..robustness_cases import result_in_fork
from .noise import write_noise

CLASSES = ("archery", "bowling")
NOISE = (8, 32, 48, 16)  # frames, height, width, and side of the squares of a video
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG = {**SIZES, "image_size": 32, "num_frames": 2, "num_aligned_layers": 1, "target_dim": 8}
TRAINING = {
    "num_train_epochs": 3, "warmup_epochs": 1, "per_device_train_batch_size": 2, "base_learning_rate": 0.1,
    "logging_steps": 1, "save_steps": 2, "dataloader_num_workers": 0, "report_to": "none", "disable_tqdm": True,
    "use_cpu": True,
}  # fmt: skip


class Corpus:
    """Folder with tiny models and videos; `make` writes it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.videos, self.classifier, self.student = folder / "videos", folder / "classifier", folder / "student"
        self.teacher, self.retriever = folder / "teacher", folder / "retriever"
        self.official, self.captions = folder / "official.pth", folder / "captions.csv"

    def make(self, num_videos: int = 8) -> "Corpus":
        torch.manual_seed(0)
        classifier = UMTForVideoClassification(UMTConfig(**CONFIG, id2label=dict(enumerate(CLASSES))))
        torch.nn.init.normal_(classifier.classifier.weight)
        student = UMTForPreTraining(UMTConfig(**CONFIG))
        teacher = UMTTeacherModel(
            UMTTeacherConfig(**SIZES, image_size=28, patch_size=14, num_aligned_layers=1, projection_dim=8)
        )
        retriever = UMTVideoTextModel(
            UMTVideoTextConfig(
                vision_config=CONFIG,
                text_config={**SIZES, "vocab_size": 120, "max_position_embeddings": 16, "fusion_layer": 1},
                projection_dim=8,
            )
        )
        models = {self.classifier: classifier, self.student: student, self.teacher: teacher, self.retriever: retriever}
        for path, model in models.items():
            model.save_pretrained(path)
        UMTVideoProcessor(size={"shortest_edge": 32}, crop_size=32, num_frames=2).save_pretrained(self.classifier)
        words = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        (self.folder / "vocab.txt").write_text("\n".join([*words, *"abcdefghijklmnop"]) + "\n")
        UMTProcessor.from_bert(
            self.folder / "vocab.txt", image_size=32, num_frames=2, max_text_length=8
        ).save_pretrained(self.retriever)
        torch.save(official_state_dict(classifier), self.official)
        for number in range(num_videos):
            write_noise(self.videos / CLASSES[number % 2] / f"{number}.mp4", number, *NOISE)
        rows = ["video,caption"]
        for number in range(num_videos):
            text = " ".join("ab"[number >> bit & 1] for bit in range(4))
            rows.append(f"videos/{CLASSES[number % 2]}/{number}.mp4,{text}")
        self.captions.write_text("\n".join(rows) + "\n")
        self.write_recipe("finetune", task="classification", init_from=str(self.student))
        self.write_recipe("pretrain", task="stage1", teacher=str(self.teacher), model=CONFIG, mask_ratio=0.5)
        return self

    def write_recipe(self, name: str, **keys: Any) -> None:
        (self.folder / f"{name}.yaml").write_text(json.dumps({**TRAINING, **keys}))  # JSON is YAML

    def recipe(self, name: str) -> str:
        return str(self.folder / f"{name}.yaml")


class Command(NamedTuple):
    """A command that writes an output.

    Args:
        name: name of the command, and of the row of the table.
        arguments: its words, for a corpus and the output.
        result: what is compared, read from the output.
    """

    name: str
    arguments: Callable[[Corpus, Path], list[str]]
    result: Callable[[Path], Any]


def run_result(output: Path) -> dict[str, Any]:
    """The trained weights, the losses of all steps, and the names of the files of a run."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return {
        "weights": {
            name: tensor.numpy().tobytes() for name, tensor in load_file(output / "model.safetensors").items()
        },
        "losses": [(line["step"], line["loss"], line["grad_norm"]) for line in history if "loss" in line],
        "files": sorted(path.name for path in output.iterdir() if path.is_file() and path.suffix != ".tmp"),
        "complete": json.loads((output / "run.json").read_text())["complete"],
    }


def evaluation_result(output: Path) -> dict[str, Any]:
    results = json.loads((output / "results.json").read_text())
    files = {path.name: path.read_bytes() for path in output.glob("*.csv")}
    return {
        **files,
        "metrics": results["metrics"],
        "dataset": results["dataset"],
        "left": (output / "partial").exists(),
    }


def files_of(output: Path) -> dict[str, bytes]:
    """The content of a folder's files, without those of an interrupted write."""
    paths = [path for path in output.rglob("*") if path.is_file() and path.suffix != ".tmp"]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def index_result(output: Path) -> list[dict[str, Any]]:
    rows = result_in_fork(index_rows, output)
    return sorted(rows, key=lambda row: (row["video"], row["reason"] or "", row["start"] or 0))


def index_rows(output: Path) -> list[dict[str, Any]]:
    from umt_training.search.search_index import SearchIndex  # only in the fork: it loads LanceDB

    return SearchIndex(output).table.to_arrow().to_pylist()


COMMANDS = (
    Command(
        "finetune",
        lambda corpus, output: ["finetune", "--config", corpus.recipe("finetune"), "--data", str(corpus.videos),
                                "--output-dir", str(output)],
        run_result,
    ),
    Command(
        "pretrain",
        lambda corpus, output: ["pretrain", "--config", corpus.recipe("pretrain"), "--data", str(corpus.videos),
                                "--output-dir", str(output), "--dataloader-num-workers", "1"],
        run_result,
    ),
    Command(
        "evaluate",
        lambda corpus, output: ["evaluate", "--model", str(corpus.classifier), "--data", str(corpus.videos),
                                "--device", "cpu", "--num-workers", "1", "--batch-size", "2", "--output", str(output)],
        evaluation_result,
    ),
    Command(
        "evaluate retrieval",
        lambda corpus, output: ["evaluate", "--task", "retrieval", "--model", str(corpus.retriever), "--data",
                                str(corpus.captions), "--device", "cpu", "--num-workers", "1", "--batch-size", "2",
                                "--output", str(output)],
        evaluation_result,
    ),
    Command(
        "embed",
        lambda corpus, output: ["embed", str(corpus.videos), "--model", str(corpus.classifier), "--device", "cpu",
                                "--window", "0.5", "--output", str(output / "vectors.npy")],
        files_of,
    ),
    Command(
        "search",
        lambda corpus, output: ["search", "a b", str(corpus.videos), "--model", str(corpus.retriever), "--device",
                                "cpu", "--window", "0.5", "--num-workers", "1", "--index", str(output)],
        index_result,
    ),
    Command(
        "convert",
        lambda corpus, output: ["convert", str(corpus.official), str(output), "--config", str(corpus.classifier)],
        files_of,
    ),
    Command(
        "check-videos",
        lambda corpus, output: ["check-videos", str(corpus.videos), "--workers", "1", "--output",
                                str(output / "report.csv")],
        files_of,
    ),
)  # fmt: skip


def start(arguments: list[str], log: Path) -> int:
    """Starts `umt` in a forked process, with its output in a file; the id of the process."""
    process = os.fork()
    if process == 0:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = 1
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return process


def run(arguments: list[str], log: Path) -> tuple[int, float]:
    """Runs `umt` to its end: exit code and seconds."""
    started = time.monotonic()
    _, status = os.waitpid(start(arguments, log), 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


def differences(expected: Any, found: Any, name: str = "") -> Iterator[str]:
    """Where two results differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}, key=str):
            yield from differences(expected.get(key), found.get(key), f"{name}/{key}")
    elif expected != found:
        yield f"{name}: {str(expected)[:80]} became {str(found)[:80]}"
