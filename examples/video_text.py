"""Stage 2 in minutes on a laptop, without network: a tiny video-text model trained on captioned clips.

Generated clips of one drifting object are written as video files, with annotation files in the official format. A tiny
CLIP trained on single frames is the teacher. A video encoder and a small BERT, both with random weights, are trained
with all four objectives, and recall is measured on held-out clips. The model is saved, loaded again with AutoModel and
AutoProcessor, and classifies the motion direction of held-out clips by text. Direction is the hardest attribute, since
it depends on the order of frames; with the default number of steps the model learns the other attributes first.

    python examples/video_text.py --output video-text
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

from modeling_umt import UMTForVideoTextPreTraining, UMTTeacherModel, UMTVideoTextConfig
from processing_umt import UMTProcessor
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training import UMTVideoTextArguments, UMTVideoTextTrainer
from umt_training.data.captioned_records import load_captioned_records
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.demo.motion_clips import (
    DIRECTIONS,
    MotionClip,
    draw_motion_clip,
    render_motion_clips,
    roll_and_jitter,
    untouched,
    write_motion_clips,
)
from umt_training.demo.tiny_clip import train_tiny_clip

SIDE, FRAMES, HIDDEN_SIZE, ALIGNED_LAYERS, BATCH = 32, 4, 96, 2, 48
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OBJECTIVES = {
    "loss_vtc": "contrast",
    "loss_vtm": "matching",
    "loss_mlm": "masked words",
    "loss_uta": "alignment",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("video-text"), help="folder of clips, teacher and model")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of stage 2")
    parser.add_argument("--teacher-steps", type=int, default=250, help="optimiser steps of the teacher")
    parser.add_argument("--clips", type=int, default=2048, help="training clips")
    parser.add_argument("--test-clips", type=int, default=128, help="held-out clips, with distinct captions")
    args = parser.parse_args(argv)
    start = time.perf_counter()

    train_list = write_clips(args.output, "train", args.clips, seed=1)
    test_list = write_clips(args.output, "test", args.test_clips, seed=2)
    say(
        start,
        f"{args.clips} training clips and {args.test_clips} held-out clips, for example: {captions(test_list)[0]!r}",
    )

    teacher = make_teacher(args.output, min(512, args.clips), args.teacher_steps)
    say(start, f"teacher: a tiny CLIP, trained on single frames for {args.teacher_steps} steps")

    processor = make_processor(args.output, captions(train_list))
    trainer = train(args.output, train_list, test_list, teacher, processor, args.steps)
    say(start, f"{args.steps} steps of stage 2; mean losses of the first and the last tenth:")
    for name, words in OBJECTIVES.items():
        losses = [line[name] for line in trainer.state.log_history if name in line]
        tenth = max(1, len(losses) // 10)
        print(f"    {words:<13} {np.mean(losses[:tenth]):7.3f} -> {np.mean(losses[-tenth:]):7.3f}")
    recalls = trainer.evaluate()
    print(f"recall on {args.test_clips} held-out clips, in percent     R@1    R@5   R@10")
    for direction in ("text_to_video", "video_to_text"):
        values = "".join(f"{recalls[f'eval_{direction}_r{rank}']:7.1f}" for rank in (1, 5, 10))
        print(f"    {direction.replace('_', ' '):<41}{values}")
    chance = "".join(f"{100 * min(1, rank / args.test_clips):7.1f}" for rank in (1, 5, 10))
    print(f"    {'chance':<41}{chance}")

    folder = args.output / "model"
    trainer.save_model(str(folder))
    accuracy = direction_accuracy(folder, args.test_clips, seed=2)
    print(f"loaded again from {folder}: direction of held-out clips correct for {accuracy:.1f} % (chance 12.5 %)")
    say(start, "done")


def say(start: float, text: str) -> None:
    print(f"[{time.perf_counter() - start:5.0f} s] {text}", flush=True)


# --- data ------------------------------------------------------------------------------------------------------------


def describe(clip: MotionClip, direction: str | None = None) -> str:
    """Caption of a clip, with its own direction of motion or a given one."""
    direction = (direction or clip.direction).replace("_", " ")
    return f"A {clip.colour} {clip.shape} moves {direction}, {clip.pattern} {clip.background} background."


def write_clips(folder: Path, split: str, number: int, seed: int) -> Path:
    """Write video files and their annotation file, which is returned; held-out captions are distinct."""
    rows, seen = [], set()
    paths = write_motion_clips(folder / split, number if split == "train" else 2 * number, seed)
    for index, path in enumerate(paths):
        caption = describe(draw_motion_clip(seed, index))
        if split == "train" or (caption not in seen and len(rows) < number):
            rows.append({"video": str(path.relative_to(folder)), "caption": caption})
            seen.add(caption)
    annotations = folder / f"{split}.json"
    annotations.write_text(json.dumps(rows))
    return annotations


def captions(annotations: Path) -> list[str]:
    return [row["caption"] for row in json.loads(annotations.read_text())]


def make_clips(annotations: Path, positives: str, transform) -> VideoClipDataset:
    """Clips of four of a video's eight frames, without the flips of the published recipes, which would turn west into
    east."""
    return VideoClipDataset(
        load_captioned_records([annotations], positives=positives),
        num_frames=FRAMES,
        sample_frames=partial(sample_training_clip, sampling="middle"),
        transform=transform,
    )


# --- models ----------------------------------------------------------------------------------------------------------


def make_teacher(folder: Path, num_clips: int, num_steps: int) -> UMTTeacherModel:
    """A CLIP trained on single frames of the first clips and captions of these frames, without motion."""
    frames, _ = render_motion_clips(1, num_clips)
    texts = [draw_motion_clip(1, index).caption(frame) for index in range(num_clips) for frame in range(0, 8, 2)]
    clip = train_tiny_clip(frames[:, ::2].reshape(-1, SIDE, SIDE, 3), texts, num_steps=num_steps)
    clip.save_pretrained(folder / "clip")
    return UMTTeacherModel.from_clip(folder / "clip", image_size=SIDE, num_aligned_layers=ALIGNED_LAYERS)


def make_processor(folder: Path, texts: list[str]) -> UMTProcessor:
    """A processor whose vocabulary is the words of the captions."""
    words = sorted({word for text in texts for word in text.lower().replace(",", " ").replace(".", " ").split()})
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(SPECIAL_TOKENS + words) + "\n")
    return UMTProcessor.from_bert(vocabulary, num_frames=FRAMES, image_size=SIDE, max_text_length=12)


def make_model(processor: UMTProcessor, target_dim: int) -> UMTForVideoTextPreTraining:
    layers = {"num_hidden_layers": 4}
    config = make_config(
        processor,
        vision=layers | {"num_aligned_layers": ALIGNED_LAYERS, "target_dim": target_dim},
        text=layers | {"fusion_layer": 2},
        # hard negatives differ only in the direction: matching does not learn from them in so few steps
        vtm_hard_negatives=False,
    )
    return UMTForVideoTextPreTraining(config)


def make_config(processor: UMTProcessor, vision: dict, text: dict, **fields) -> UMTVideoTextConfig:
    """Configuration of a tiny model for the processor's clips and vocabulary; `vision` and `text` give the depth."""
    size = {
        "hidden_size": HIDDEN_SIZE,
        "num_attention_heads": 4,
        "intermediate_size": 4 * HIDDEN_SIZE,
        "initializer_range": HIDDEN_SIZE**-0.5,  # 0.02 suits hidden sizes near 1000
    }
    clips = {"image_size": SIDE, "patch_size": 8, "num_frames": FRAMES}
    tokenizer = processor.tokenizer
    vocabulary = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "mask_token_id": tokenizer.mask_token_id,
    }
    return UMTVideoTextConfig(
        vision_config=size | clips | vision,
        text_config=size | vocabulary | text,
        projection_dim=HIDDEN_SIZE,
        **fields,
    )


def train(
    folder: Path, train_list: Path, test_list: Path, teacher: UMTTeacherModel, processor: UMTProcessor, num_steps: int
) -> UMTVideoTextTrainer:
    torch.manual_seed(0)
    trainer = UMTVideoTextTrainer(
        model=make_model(processor, teacher.config.projection_dim),
        teacher=teacher,
        args=UMTVideoTextArguments(
            output_dir=str(folder / "run"),
            max_steps=num_steps,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            learning_rate=1.5e-3,
            warmup_steps=0.1,
            mask_ratio=0.5,
            dataloader_num_workers=1,
            logging_steps=max(1, num_steps // 40),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        processing_class=processor,
        # training clips with the same caption are all positives of it
        train_dataset=make_clips(train_list, "caption", partial(roll_and_jitter, jitter=0.1)),
        eval_dataset=make_clips(test_list, "video", untouched),
    )
    trainer.train()
    return trainer


@torch.inference_mode()
def direction_accuracy(folder: Path, num_clips: int, seed: int) -> float:
    """Percent of held-out clips for which, of captions with eight directions, a saved model ranks the correct one
    first."""
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    correct = 0
    for index in range(num_clips):
        clip = draw_motion_clip(seed, index)
        texts = [describe(clip, direction) for direction in DIRECTIONS]
        inputs = processor(text=texts, videos=clip.frames(), return_tensors="pt")
        correct += model(**inputs).logits_per_video.argmax().item() == clip.label
    return 100 * correct / num_clips


if __name__ == "__main__":
    main()
