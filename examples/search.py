"""Retrieval and search in minutes on a laptop, without network: fine-tuning, evaluation, indexing and search.

`umt finetune` trains a tiny video-text model with random weights for retrieval on generated clips, and `umt evaluate
--task retrieval` measures recall on held-out clips. `umt search` then indexes a folder of other clips, three of them
broken; it is killed while indexing, resumes, and indexes one file added later. The results are written to the page
`found.html`. Finally, zero-shot classification predicts the colour of the background.

    python examples/search.py --output search
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from transformers import pipeline
from video_text import FRAMES, captions, make_config, make_processor, say, write_clips

from modeling_umt import UMTVideoTextModel
from processing_umt import UMTProcessor
from umt_training.demo.motion_clips import COLOURS, SHAPES, draw_motion_clip, write_motion_clips
from umt_training.search.search_index import FOLDER, SearchIndex

RERANKED = 16
QUERY = "a red circle moves east, plain blue background"
UMT = [sys.executable, "-m", "umt_training.cli"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("search"), help="folder of clips, models and index")
    parser.add_argument("--steps", type=int, default=350, help="optimiser steps")
    parser.add_argument("--clips", type=int, default=2048, help="training clips")
    parser.add_argument("--test-clips", type=int, default=128, help="held-out clips, with distinct captions")
    parser.add_argument("--search-clips", type=int, default=200, help="clips in the searched folder")
    args = parser.parse_args(argv)
    start = time.perf_counter()

    train_list = write_clips(args.output, "train", args.clips, seed=1)
    test_list = write_clips(args.output, "test", args.test_clips, seed=2)
    save_start(args.output / "start", make_processor(args.output, captions(train_list)))
    umt("finetune", "--config", write_recipe(args.output, train_list, args.steps), quiet=True)
    say(start, f"{args.steps} steps on {args.clips} clips")
    options = ("--several-videos", "--reranked", RERANKED, "--num-workers", 0, "--output", args.output / "evaluation")
    umt("evaluate", "--task", "retrieval", "--model", args.output / "model", "--data", test_list, *options)
    chance = ", ".join(f"{100 * min(1, rank / args.test_clips):.1f}" for rank in (1, 5, 10))
    print(f"chance at R@1, R@5 and R@10: {chance}")

    videos = args.output / "videos"
    paths = write_motion_clips(videos, args.search_clips, seed=3)
    (videos / "cut.mp4").write_bytes(paths[0].read_bytes()[:2000])
    (videos / "text.mp4").write_bytes(b"no video")
    (videos / "empty.mp4").write_bytes(b"")
    index_and_kill(videos, args.output / "model")
    search = ("search", QUERY, videos, "--num-workers", 0, "--top-k", 5)
    umt(*search)
    say(start, "one more file")
    (videos / "added.mp4").write_bytes(paths[1].read_bytes())
    umt(*search, "--html", args.output / "found.html")
    accuracy = background_accuracy(args.output / "model", 200)
    print(f"zero-shot: background colour, one of four, correct for {accuracy:.1f} %")
    say(start, "done")


def umt(*words: object, quiet: bool = False) -> None:
    """Run a command of `umt` and show or discard its output."""
    target = subprocess.DEVNULL if quiet else None
    sys.stdout.flush()
    subprocess.run([*UMT, *map(str, words)], check=True, stdout=target, stderr=target)


def save_start(folder: Path, processor: UMTProcessor) -> None:
    """Save a model with random weights and its processor."""
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 3}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = make_config(
        processor,
        vision=layers | {"num_aligned_layers": 1},
        text=layers | no_dropout | {"fusion_layer": 1},
    )
    UMTVideoTextModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def write_recipe(folder: Path, train_list: Path, num_steps: int) -> Path:
    recipe = {
        "task": "retrieval",
        "data": str(train_list),
        "init_from": str(folder / "start"),
        "num_frames": FRAMES,
        "max_text_length": 12,
        "several_videos": True,  # all clips with the same caption are positives of it
        "flip": False,  # would turn west into east
        "model": {"vtm_hard_negatives": False},  # they differ in attributes that so few steps do not learn
        "output_dir": str(folder / "model"),
        "max_steps": num_steps,
        "learning_rate": 1.5e-3,
        "warmup_steps": 0.1,
        "per_device_train_batch_size": 48,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def index_and_kill(videos: Path, model: Path) -> None:
    """Start indexing, and kill the process as soon as the index contains a video."""
    folder = videos / FOLDER
    words = ("search", QUERY, videos, "--model", model, "--num-workers", 0, "--batch-size", 1)
    command = subprocess.Popen([*UMT, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while command.poll() is None:
        if SearchIndex.exists(folder) and SearchIndex(folder).known():
            os.kill(command.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    print(f"killed: exit code {command.wait()}, {len(SearchIndex(folder).known())} videos are in the index")


def background_accuracy(model: Path, num_clips: int) -> float:
    """Percent of clips whose background colour `zero-shot-video-classification` predicts correctly. The hypothesis
    templates are the captions of all object colours and shapes."""
    classifier = pipeline("zero-shot-video-classification", model=str(model), device="cpu")
    templates = [
        f"A {colour} {shape} moves north, plain {{}} background."
        for colour, shape in itertools.product(COLOURS, SHAPES)
    ]
    clips = [draw_motion_clip(3, index) for index in range(num_clips)]
    found = classifier(
        [clip.frames() for clip in clips],
        candidate_labels=list(COLOURS),
        hypothesis_template=templates,
        batch_size=20,
    )
    correct = [labels[0]["label"] == clip.background for labels, clip in zip(found, clips, strict=True)]
    return 100 * sum(correct) / num_clips


if __name__ == "__main__":
    main()
