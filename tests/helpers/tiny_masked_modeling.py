"""Masked modelling small enough for tests: a student, an image and a video teacher, and a function that trains.

As a script of a launcher, `tiny_masked_modeling.py VIDEOS FOLDER CASE...` runs the cases in every process and writes
their results; see `tiny_pretraining.py`.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from tiny_pretraining import ARGUMENTS, GLOBAL_BATCH, losses_of
from transformers import VideoMAEConfig, VideoMAEModel, ViTMAEConfig, ViTMAEModel

from modeling_umt import UMTConfig, UMTForMaskedModeling, UMTImageTeacherConfig, UMTImageTeacherModel, UMTModel
from modeling_umt.position_embeddings_umt import plane_position_table
from processing_umt.augmentation_umt import augment_for_masked_modeling
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.data.video_records import load_video_records
from umt_training.trainers.masked_modeling import UMTMaskedModelingArguments, UMTMaskedModelingTrainer

CLIP = {"image_size": 64, "num_frames": 4, "tubelet_size": 2}
ENCODER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
STUDENT = CLIP | ENCODER | {
    "position_type": "space_time",
    "masked_targets": {"image": 24, "video": 40},
    "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2,
}  # fmt: skip
PIXELS = {
    "position_type": "flat",
    "position_grid": None,
    "masked_targets": {"pixels": 2 * 3 * 16**2},
    "masked_loss": "mse",
    "normalize_targets": True,
    "decoder_projection_bias": False,
}
IMAGE_TEACHER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VIDEO_TEACHER = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 80}


def make_student(**fields) -> UMTForMaskedModeling:
    torch.manual_seed(1)
    return UMTForMaskedModeling(UMTConfig(**STUDENT | fields))


def make_teachers(image: dict | None = None, video: dict | None = None) -> dict[str, torch.nn.Module]:
    torch.manual_seed(2)
    image_config = UMTImageTeacherConfig(**IMAGE_TEACHER | {"image_size": 64} | (image or {}))
    video_fields = CLIP | VIDEO_TEACHER | {"position_grid": None, "final_norm": "none"}
    return {"image": UMTImageTeacherModel(image_config), "video": UMTModel(UMTConfig(**video_fields | (video or {})))}


def save_transformers_teachers(folder: Path) -> dict[str, str]:
    """Teachers of Transformers' own classes, as folders."""
    torch.manual_seed(3)
    models = {
        "image": ViTMAEModel(ViTMAEConfig(**IMAGE_TEACHER, image_size=64, patch_size=16, mask_ratio=0.0)),
        "video": VideoMAEModel(VideoMAEConfig(**VIDEO_TEACHER, image_size=64, num_frames=4, tubelet_size=2)),
    }
    # published repositories contain the table; Transformers initialises it with zeros
    table = models["image"].embeddings.position_embeddings.data
    table[0, 1:] = plane_position_table((4, 4), IMAGE_TEACHER["hidden_size"])
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return {name: str(folder / name) for name in models}


def clip_options(teacher_size: int | None = None) -> dict:
    return {
        "num_frames": CLIP["num_frames"],
        "sample_frames": partial(sample_training_clip, sampling="segments"),
        "transform": partial(augment_for_masked_modeling, size=CLIP["image_size"], teacher_size=teacher_size),
    }


def some_batch(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    clips = torch.randint(256, (number, 4, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return {"pixel_values_videos": clips, "sample_seeds": torch.arange(number) * 1_000_003}


def make_trainer(
    videos: str | Path | None,
    output_dir: Path,
    student=None,
    teachers=None,
    dataset=None,
    eval_dataset=None,
    **arguments,
) -> UMTMaskedModelingTrainer:
    """A trainer of the tiny models, on the folder `videos` unless a data set is given."""
    if dataset is None and videos is not None:
        dataset = VideoClipDataset(load_video_records(str(videos)), **clip_options())
    return UMTMaskedModelingTrainer(
        model=student or make_student(),
        teachers=make_teachers() if teachers is None else teachers,
        args=UMTMaskedModelingArguments(**ARGUMENTS | {"output_dir": str(output_dir)} | arguments),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
    )


def make_pixel_trainer(videos: str | Path | None, output_dir: Path, **arguments) -> UMTMaskedModelingTrainer:
    return make_trainer(videos, output_dir, student=make_student(**PIXELS), teachers={}, **arguments)


CASES = {
    "features": {},
    "accumulated": {"gradient_accumulation_steps": 2},
    "pixels": {},
    "random": {"mask_type": "random"},
}


def run_case(name: str, videos: Path, output_dir: Path, num_processes: int) -> dict:
    """Train a case with the same global batch on any number of processes; returns the results of this process."""
    arguments = CASES[name]
    batch = GLOBAL_BATCH // num_processes // arguments.get("gradient_accumulation_steps", 1)
    make = make_pixel_trainer if name == "pixels" else make_trainer
    trainer = make(videos, output_dir, **arguments, per_device_train_batch_size=batch)
    trainer.train()
    assert trainer.args.world_size == num_processes
    torch.save(trainer.model.state_dict(), output_dir / f"weights-{trainer.args.process_index}.pt")
    return {"wrapped": type(trainer.model_wrapped).__name__, "losses": losses_of(trainer), "parts": parts_of(trainer)}


def parts_of(trainer) -> list[dict[str, float]]:
    """The loss of each target in every log line."""
    return [
        {name: value for name, value in line.items() if name.startswith("loss_")}
        for line in trainer.state.log_history
        if "learning_rate" in line
    ]


def sharded_step(folder: Path) -> dict:
    """Loss and full gradients of one step of a student whose parameters are sharded across processes (FSDP2)."""
    from torch.distributed import get_rank, get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (get_world_size(),))
    student = make_student()
    for part in [*student.umt.layers, student.umt.norm, *student.decoders.values()]:
        fully_shard(part, mesh=mesh)
    fully_shard(student, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in student.parameters())
    mine = slice(get_rank() * GLOBAL_BATCH // get_world_size(), (get_rank() + 1) * GLOBAL_BATCH // get_world_size())
    loss = step_loss(student, {name: tensor[mine] for name, tensor in some_batch(GLOBAL_BATCH).items()}, folder)
    gradients = {name: parameter.grad.full_tensor() for name, parameter in student.named_parameters()}
    torch.save(gradients, folder / f"gradients-{get_rank()}.pt")
    return {"losses": [loss]}


def step_loss(student: torch.nn.Module, batch: dict[str, torch.Tensor], folder: Path) -> float:
    """Loss of the trainer's objective after a backward pass, without the training loop."""
    loss = make_trainer(None, folder).compute_loss(student.train(), batch)
    loss.backward()
    return loss.item()


def main(videos: str, folder: str, *cases: str) -> None:
    from torch.distributed import get_rank, get_world_size

    for name in cases:
        output_dir = Path(folder, name)
        output_dir.mkdir(exist_ok=True)
        UMTMaskedModelingArguments(output_dir=str(output_dir), use_cpu=True)  # joins the process group
        result = sharded_step(output_dir) if name == "sharded" else run_case(name, Path(videos), output_dir, 2)
        Path(output_dir, f"result-{get_rank()}.json").write_text(json.dumps(result))
    assert get_world_size() == 2


if __name__ == "__main__":
    main(*sys.argv[1:])
