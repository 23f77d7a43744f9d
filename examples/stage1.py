"""Stage 1 of Unmasked Teacher (arXiv 2303.16058, section 3.2) as one plain training loop, to read and to modify.

A frozen CLIP vision tower encodes all tokens of a clip, frame by frame. The attention of its class token selects the
tokens that stay visible. The student encodes only these, with space-time attention, and learns to predict the
teacher's features of them. Hyperparameters are those of the recipe `umt_b16_k710_stage1`, apart from the batch size:

    python examples/stage1.py VIDEOS --teacher openai/clip-vit-base-patch16 --output stage1
    umt finetune --config small_data --data LABELLED_VIDEOS --init-from stage1

Without stochastic depth, whose random numbers differ, losses and weights are bit for bit those of
`UMTPreTrainingTrainer` (`umt pretrain`) in float32 on one device. The Trainer adds mixed precision, gradient
accumulation, several processes, several masks per forward pass of the teacher, compilation, activation checkpointing,
logging, checkpoints and resume, and limits on broken videos and non-finite losses.

Shapes: B clips, T frames, V visible tokens, K aligned layers, F dimension of the teacher's features.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_umt import UMTConfig, UMTForPreTraining, UMTTeacherConfig, UMTTeacherModel
from modeling_umt.token_selection_umt import attention_token_selection
from processing_umt import UMTVideoProcessor
from processing_umt.augmentation_umt import augment_for_pretraining
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training.data.video_dataset import EpochSampler, VideoClipDataset, collate_clips
from umt_training.data.video_records import load_video_records
from umt_training.trainers.optimization import cosine_schedule, parameter_groups, scaled_learning_rate

NUM_FRAMES = 8
PATCH_SIZE = 16
DROP_PATH_RATE = 0.1
MASK_RATIO = 0.8
BASE_LEARNING_RATE, BASE_MIN_LEARNING_RATE = 1.5e-4, 1e-5  # for 256 clips per step
WARMUP_FRACTION = 0.2  # of the steps
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.95)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", help="folder of videos, list file or table (see load_video_records)")
    parser.add_argument("--teacher", required=True, help="folder or Hub id of a CLIP checkpoint")
    parser.add_argument("--output", type=Path, default=Path("stage1"), help="folder of the trained student")
    parser.add_argument("--aligned-layers", type=int, default=6, help="last layers of the teacher that are aligned")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-workers", type=int, default=4, help="processes that read videos")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    teacher = UMTTeacherModel.from_clip(args.teacher, num_aligned_layers=args.aligned_layers)
    student = UMTForPreTraining(student_config(teacher.config))
    dataset = load_clips(args.videos, student.config)
    pretrain(student, teacher, dataset, args.epochs, args.batch_size, num_workers=args.num_workers)
    student.save_pretrained(args.output)
    UMTVideoProcessor.for_config(student.config).save_pretrained(args.output)


def student_config(teacher: UMTTeacherConfig) -> UMTConfig:
    """A student with the teacher's size and token grid, as in the paper: B/16 for CLIP-B/16, L/16 for CLIP-L/14."""
    return UMTConfig(
        num_frames=NUM_FRAMES,
        patch_size=PATCH_SIZE,
        image_size=PATCH_SIZE * teacher.image_size // teacher.patch_size,
        hidden_size=teacher.hidden_size,
        num_hidden_layers=teacher.num_hidden_layers,
        num_attention_heads=teacher.num_attention_heads,
        intermediate_size=teacher.intermediate_size,
        drop_path_rate=DROP_PATH_RATE,
        num_aligned_layers=teacher.num_aligned_layers,
        target_dim=teacher.projection_dim,
    )


def load_clips(videos: str, config: UMTConfig) -> VideoClipDataset:
    """Clips of one random frame per segment, with a random multi-scale crop and flip; uint8 (T, 3, height, width)."""
    return VideoClipDataset(
        load_video_records(videos, with_labels=False),
        num_frames=config.num_frames,
        sample_frames=partial(sample_training_clip, sampling="segments"),
        transform=partial(augment_for_pretraining, size=config.image_size),
    )


def pretrain(
    student: UMTForPreTraining,
    teacher: UMTTeacherModel,
    dataset: VideoClipDataset,
    num_epochs: int,
    batch_size: int,
    base_learning_rate: float = BASE_LEARNING_RATE,
    num_workers: int = 0,
) -> list[float]:
    """Train the student on all clips for `num_epochs`; returns the loss of every step."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    student.to(device).train()
    teacher.to(device).eval().requires_grad_(False)

    # order, frames, crops and masks are functions of (seed, epoch, index)
    sampler = EpochSampler(dataset, batch_size)
    loader = DataLoader(dataset, batch_size, sampler=sampler, collate_fn=collate_clips, num_workers=num_workers)
    num_steps = num_epochs * len(loader)

    learning_rate = scaled_learning_rate(base_learning_rate, batch_size)
    optimizer = torch.optim.AdamW(parameter_groups(student, learning_rate, WEIGHT_DECAY), betas=BETAS, fused=True)
    schedule = cosine_schedule(
        optimizer,
        total_steps=num_steps,
        warmup_steps=round(WARMUP_FRACTION * num_steps),
        learning_rate=learning_rate,
        min_learning_rate=scaled_learning_rate(BASE_MIN_LEARNING_RATE, batch_size),
    )

    losses = []
    for epoch in range(num_epochs):
        dataset.set_epoch(epoch)
        for batch in loader:
            clips = normalise(batch["pixel_values_videos"].to(device))  # (B, T, 3, height, width)
            visible_indices, targets = compute_targets(teacher, clips, batch["sample_seeds"].to(device))
            outputs = student(clips, visible_indices=visible_indices, target_features=targets)
            loss = outputs.loss  # mean of 2 - 2 cos(student, teacher) over clips, layers and visible tokens
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            print(f"epoch {epoch}, step {len(losses)} of {num_steps}: loss {losses[-1]:.4f}", flush=True)
    return losses


@torch.no_grad()
def compute_targets(
    teacher: UMTTeacherModel, clips: torch.Tensor, sample_seeds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token selection and targets from one forward pass of the teacher.

    Args:
        clips: (B, T, 3, height, width), normalised; the teacher resizes them to its own size.
        sample_seeds: int64 (B,), one seed per mask.

    Returns:
        `visible_indices`, int64 (B, V), and the teacher's features of these tokens as unit vectors, (B, K, V, F).
    """
    # in every frame, tokens are sampled without replacement in proportion to the class token's attention
    select = partial(attention_token_selection, mask_ratio=MASK_RATIO, sample_seeds=sample_seeds)
    outputs = teacher(clips, token_selector=select)
    return outputs.visible_indices, outputs.features


def normalise(clips: torch.Tensor) -> torch.Tensor:
    """uint8 clips (B, T, 3, height, width) as float32 with ImageNet's mean and standard deviation."""
    mean, std = (torch.tensor(values, device=clips.device) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (clips / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


if __name__ == "__main__":
    main()
