"""A stage-2 run small enough for tests: model, teacher, processor, captioned clips, a function that trains on them.

As a script of a launcher, `tiny_video_text.py MEDIA FOLDER CASE...` runs the cases in every process and writes their
results. The same function runs them in one process, for comparison.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from bert_vocabulary import write_vocabulary
from datasets import Dataset
from PIL import Image
from tiny_pretraining import make_teacher
from video_files import write_video

from modeling_umt import UMTForVideoTextPreTraining, UMTVideoTextConfig
from processing_umt import UMTProcessor
from processing_umt.augmentation_umt import augment_for_video_text
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training.data.alternating_clips import AlternatingClips
from umt_training.data.captioned_records import load_captioned_records
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.trainers.video_text import UMTVideoTextArguments, UMTVideoTextTrainer

GLOBAL_BATCH = 4
SIZE, NUM_FRAMES = 64, 2
VISION = {
    "image_size": SIZE,
    "num_frames": NUM_FRAMES,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_aligned_layers": 2,
    "target_dim": 16,
}
TEXT = {
    "vocab_size": 123,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
    "fusion_layer": 2,
    # dropout depends on the position in a process's batch
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
NOUNS = ("man", "dog", "cat", "person", "bike", "car")


def make_model(**fields) -> UMTForVideoTextPreTraining:
    torch.manual_seed(1)
    config = UMTVideoTextConfig(vision_config=VISION, text_config=TEXT, projection_dim=16, **fields)
    return UMTForVideoTextPreTraining(config)


def make_processor(folder: Path) -> UMTProcessor:
    return UMTProcessor.from_bert(write_vocabulary(folder), image_size=SIZE, num_frames=NUM_FRAMES, max_text_length=8)


def caption(index: int) -> str:
    return f"a {NOUNS[index % 6]} runs {'fast' if index % 2 else 'doing the'} {NOUNS[index // 6]}!"


def write_media(folder: Path, number: int = 16) -> Path:
    for index in range(number):
        write_video(folder / f"{index:02}.mp4", num_frames=6, colour=13 * index % 256)
        Image.new("RGB", (70, 60), (13 * index % 256, 40, 200)).save(folder / f"{index:02}.png")
    return folder


def make_clips(folder: Path, suffix: str = "mp4", number: int = 16) -> VideoClipDataset:
    paths = [f"{folder}/{index:02}.{suffix}" for index in range(number)]
    table = Dataset.from_dict({"video": paths, "caption": [caption(index) for index in range(number)]})
    return VideoClipDataset(
        load_captioned_records([table]),
        1 if suffix == "png" else NUM_FRAMES,
        partial(sample_training_clip, sampling="middle"),
        partial(augment_for_video_text, size=SIZE),
        images=suffix == "png",
    )


class LoggedTrainer(UMTVideoTextTrainer):
    """Records the clips in the batches of this process, and the gradients of the first step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[int, int]] = []
        self.first_gradients: dict[str, torch.Tensor] = {}

    def training_step(self, model, inputs, *args, **kwargs):
        frames = inputs["pixel_values_videos"].shape[1]
        self.seen += [(frames, index) for index in inputs["video_index"].tolist()]
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not self.first_gradients:
            parameters = self.model.named_parameters()
            self.first_gradients = {name: p.grad.clone() for name, p in parameters if p.grad is not None}
        return loss


def make_trainer(output_dir: Path, dataset, model=None, eval_dataset=None, **arguments) -> LoggedTrainer:
    model = model or make_model()
    defaults = {
        "output_dir": str(output_dir),
        "mask_ratio": 0.75,
        "num_train_epochs": 1,
        "warmup_epochs": 0,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": GLOBAL_BATCH,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return LoggedTrainer(
        model=model,
        teacher=make_teacher() if model.config.uta_weight > 0 else None,
        args=UMTVideoTextArguments(**defaults | arguments),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=make_processor(output_dir),
    )


# fields of the model, arguments, and whether images and videos alternate
CASES = {
    "contrast": ({"vtm_weight": 0, "mlm_weight": 0, "uta_weight": 0}, {}, False),
    "aligned": ({"vtm_weight": 0, "mlm_weight": 0}, {}, True),
    "official": (
        {"vtm_weight": 0, "mlm_weight": 0, "uta_weight": 0},
        {"contrastive_gradients": "official", "max_steps": 1},
        False,
    ),
    "all": ({}, {"checkpoint_text": True}, True),
}


def run_case(name: str, media: Path, output_dir: Path, num_processes: int) -> dict:
    """Train a case with the same global batch on any number of processes; returns the results of this process."""
    fields, arguments, mixed = CASES[name]
    dataset = make_clips(media)
    if mixed:
        dataset = AlternatingClips([make_clips(media, "png"), dataset])
    trainer = make_trainer(
        output_dir,
        dataset,
        make_model(**fields),
        per_device_train_batch_size=GLOBAL_BATCH // num_processes,
        eval_dataset=make_clips(media, number=7),
        **arguments,
    )
    trainer.train()
    assert trainer.args.world_size == num_processes
    process = trainer.args.process_index
    torch.save(trainer.model.state_dict(), output_dir / f"weights-{process}.pt")
    torch.save(trainer.first_gradients, output_dir / f"gradients-{process}.pt")
    return {
        "lines": [line for line in trainer.state.log_history if "learning_rate" in line],
        "seen": trainer.seen,
        "evaluation": trainer.evaluate(),
    }


def main(media: str, folder: str, *cases: str) -> None:
    from torch.distributed import get_rank

    for name in cases:
        UMTVideoTextArguments(output_dir=str(folder), use_cpu=True)  # joins the process group
        output_dir = Path(folder, name)
        output_dir.mkdir(exist_ok=True)
        result = run_case(name, Path(media), output_dir, 2)
        (output_dir / f"result-{get_rank()}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
