"""A stage-1 run small enough for tests: student, teacher, videos, and a function that trains on them.

As a script of a launcher, `tiny_pretraining.py VIDEOS FOLDER CASE...` runs the cases in every process and writes their
results. The same function runs them in one process, for comparison.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from video_files import write_video

from modeling_umt import UMTConfig, UMTForPreTraining, UMTTeacherConfig, UMTTeacherModel
from processing_umt.augmentation_umt import augment_for_pretraining
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.data.video_records import load_video_records
from umt_training.data.video_stream import StreamedClipDataset
from umt_training.trainers.pretraining import UMTPreTrainingArguments, UMTPreTrainingTrainer

REPOSITORY = Path(__file__).resolve().parents[2]
GLOBAL_BATCH = 4
STUDENT = {
    "image_size": 64,
    "num_frames": 2,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_aligned_layers": 2,
    "target_dim": 16,
}
TEACHER = {
    "image_size": 56,
    "patch_size": 14,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_aligned_layers": 2,
    "projection_dim": 16,
}


def make_student(**fields) -> UMTForPreTraining:
    torch.manual_seed(1)
    return UMTForPreTraining(UMTConfig(**STUDENT | fields))


def make_teacher(**fields) -> UMTTeacherModel:
    torch.manual_seed(2)
    return UMTTeacherModel(UMTTeacherConfig(**TEACHER | fields))


def write_videos(folder: Path, number: int = 16) -> Path:
    for index in range(number):
        write_video(folder / f"video_{index:02}.mp4", num_frames=6, colour=13 * index % 256)
    return folder


def clip_options() -> dict:
    return {
        "num_frames": STUDENT["num_frames"],
        "sample_frames": partial(sample_training_clip, sampling="segments"),
        "transform": partial(augment_for_pretraining, size=STUDENT["image_size"]),
    }


class PoisonedClips(VideoClipDataset):
    """Float clips, some of which contain NaN."""

    poisoned = (3,)

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        clip = sample["pixel_values_videos"].float() / 255
        sample["pixel_values_videos"] = clip * float("nan") if key[1] in self.poisoned else clip
        return sample


# of the trainers of stage 1 and of masked modelling
ARGUMENTS = {
    "mask_ratio": 0.75,
    "num_train_epochs": 1,
    "warmup_epochs": 0,
    "base_learning_rate": 0.05,
    "per_device_train_batch_size": GLOBAL_BATCH,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}


class LoggedTrainer(UMTPreTrainingTrainer):
    """Records the videos in the batches of this process."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen: list[int] = []

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen += inputs["video_index"].tolist()
        return super().training_step(model, inputs, *args, **kwargs)


def make_trainer(
    videos: str | Path | None,
    output_dir: Path,
    student=None,
    teacher=None,
    dataset=None,
    eval_dataset=None,
    **arguments,
) -> LoggedTrainer:
    """A trainer of the tiny models, on the folder `videos` unless a data set is given."""
    if dataset is None and videos is not None:
        dataset = VideoClipDataset(load_video_records(str(videos)), **clip_options())
    return LoggedTrainer(
        model=student or make_student(),
        teacher=teacher or make_teacher(),
        args=UMTPreTrainingArguments(**ARGUMENTS | {"output_dir": str(output_dir)} | arguments),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
    )


def losses_of(trainer) -> list[float | None]:
    return [line.get("loss") for line in trainer.state.log_history if "learning_rate" in line]


CASES = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 2},
    "masks": {"num_masks_per_clip": 2, "mask_type": "random"},
    "clipped": {"max_grad_norm": 0.05},
    "poisoned": {},
    "stream": {"max_steps": 5},
}


def run_case(name: str, videos: Path, output_dir: Path, num_processes: int) -> dict:
    """Train a case with the same global batch on any number of processes; returns the results of this process."""
    arguments = CASES[name]
    batch = GLOBAL_BATCH // num_processes // arguments.get("gradient_accumulation_steps", 1)
    arguments = arguments | {"per_device_train_batch_size": batch}
    dataset = None
    if name == "poisoned":
        dataset = PoisonedClips(load_video_records(str(videos)), **clip_options())
    if name == "stream":
        args = UMTPreTrainingArguments(output_dir=str(output_dir), use_cpu=True)
        dataset = StreamedClipDataset(
            load_video_records(f"{videos}/shards/s-{{0..3}}.tar"),
            samples_per_epoch=16,
            batch_size=batch,
            process_index=args.process_index,
            num_processes=args.world_size,
            **clip_options(),
        )
    trainer = make_trainer(videos, output_dir, dataset=dataset, **arguments)
    trainer.train()
    assert trainer.args.world_size == num_processes
    torch.save(trainer.model.state_dict(), output_dir / f"weights-{trainer.args.process_index}.pt")
    return {
        "wrapped": type(trainer.model_wrapped).__name__,
        "losses": losses_of(trainer),
        "skipped": trainer.guard.num_skipped,
        "seen": trainer.seen,
        "seed": torch.initial_seed(),
    }


def sharded_step(folder: Path) -> dict:
    """Loss and full gradients of one step of a student whose parameters are sharded across processes (FSDP2)."""
    from torch.distributed import get_rank, get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (get_world_size(),))
    student = make_student()
    # norm and decoders too, which the backward pass recomputes
    for part in [*student.umt.layers, student.umt.norm, *student.decoders]:
        fully_shard(part, mesh=mesh)
    fully_shard(student, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in student.parameters())
    assert student.umt.layers[0].mlp.fc1.weight.to_local().shape[0] == 64 // get_world_size()
    clips = some_clips(GLOBAL_BATCH)
    mine = slice(get_rank() * GLOBAL_BATCH // get_world_size(), (get_rank() + 1) * GLOBAL_BATCH // get_world_size())
    loss = step_loss(student, clips[mine], torch.arange(GLOBAL_BATCH)[mine], folder)
    gradients = {name: parameter.grad.full_tensor() for name, parameter in student.named_parameters()}
    torch.save(gradients, folder / f"gradients-{get_rank()}.pt")
    return {"losses": [loss], "kinds": sorted({type(parameter).__name__ for parameter in student.parameters()})}


def some_clips(number: int) -> torch.Tensor:
    shape = (number, STUDENT["num_frames"], 3, STUDENT["image_size"], STUDENT["image_size"])
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def step_loss(student: torch.nn.Module, clips: torch.Tensor, seeds: torch.Tensor, folder: Path) -> float:
    """Loss of the trainer's objective after a backward pass, without the training loop."""
    trainer = make_trainer(None, folder, student=make_student())
    loss = trainer.compute_loss(student.train(), {"pixel_values_videos": clips, "sample_seeds": seeds})
    loss.backward()
    return loss.item()


def python_environment() -> dict[str, str]:
    """The environment of a child process that imports the packages and the test helpers of this checkout."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def main(videos: str, folder: str, *cases: str) -> None:
    from torch.distributed import get_rank, get_world_size

    for name in cases:
        output_dir = Path(folder, name)
        output_dir.mkdir(exist_ok=True)
        UMTPreTrainingArguments(output_dir=str(output_dir), use_cpu=True)  # joins the process group
        result = sharded_step(output_dir) if name == "sharded" else run_case(name, Path(videos), output_dir, 2)
        Path(output_dir, f"result-{get_rank()}.json").write_text(json.dumps(result))
    assert get_world_size() == 2


if __name__ == "__main__":
    main(*sys.argv[1:])
