"""The trainer that every UMT objective shares: data order, broken videos, schedule, logging and non-finite losses.

It is Transformers' `Trainer` - launchers, accumulation, mixed precision, checkpoints and resume are Trainer's own -
with what the recipes of arXiv 2303.16058 need on top:

- the learning rate follows from the effective batch, and the optimiser's groups and schedule are the official ones;
- every random choice about a clip is a function of (seed, epoch, index), so that resuming, the number of workers and
  the number of processes change nothing;
- clips arrive as `uint8`, copied from pinned memory while the device computes, and are normalised there;
- broken videos and non-finite losses are counted and survived up to a limit;
- each log line says where the time went.
"""

import math
import os
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from accelerate.data_loader import DataLoaderShard
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..atomic_files import atomic_write
from ..cards.model_card import trainer_card
from ..cards.run_facts import RunFacts
from ..data.alternating_clips import AlternatingClips, AlternatingSampler, AlternatingStreams
from ..data.broken_videos import BrokenVideoLog
from ..data.video_dataset import EpochSampler, VideoClipDataset, collate_clips
from ..data.video_stream import StreamedClipDataset
from ..pictures.run_pictures import CurvePicture
from .nonfinite_guard import NonFiniteGuard
from .optimization import cosine_schedule, parameter_groups, scaled_learning_rate
from .step_timer import StepTimer


@dataclass
class UMTTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the fields of UMT's recipes; rates named `base_...` are for 256 clips a step.

    Args:
        base_learning_rate: Peak rate for 256 clips a step; the run's rate is scaled by its effective batch.
        base_min_learning_rate: Where the cosine ends, scaled likewise.
        base_warmup_learning_rate: Where the linear warm-up starts, scaled likewise.
        warmup_epochs: Length of the warm-up, in epochs of `num_train_epochs`; `warmup_steps` overrules it.
        layer_decay: Scale of the learning rate from each layer to the one before it; 1 for one rate everywhere.
        max_nonfinite_steps: Optimiser steps with a NaN or infinite loss or gradient that a run may skip before it
            stops.
        max_broken_share: Share of failed attempts to read a video beyond which the run stops.
    """

    # stage 2 and what follows it name the rate itself
    absolute_learning_rate: ClassVar[bool] = False

    base_learning_rate: float = 1.5e-4
    base_min_learning_rate: float = 1e-5
    base_warmup_learning_rate: float = 0.0
    warmup_epochs: float = 0.0
    layer_decay: float = 1.0
    max_nonfinite_steps: int = 20
    max_broken_share: float = 0.1

    # the recipes' values where they differ from Transformers' own
    weight_decay: float = 0.05
    max_grad_norm: float = 0.0
    remove_unused_columns: bool = False
    logging_nan_inf_filter: bool = False  # `NonFiniteGuard` does it, without waiting for the device
    ddp_find_unused_parameters: bool | None = False  # every parameter of a UMT model gets a gradient in every step

    # every clip counts this often in the effective batch (repeated augmentation, several masks)
    views_per_clip: int = field(default=1, init=False)

    def __post_init__(self):
        # A machine without an accelerator trains on its CPU unasked. Left to itself, Trainer would refuse bf16 there,
        # and processes of a launcher would each train alone.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if not self.absolute_learning_rate and self.learning_rate != TrainingArguments.learning_rate:
            raise ValueError(
                f"`learning_rate` {self.learning_rate:g} was given, but the rate follows from the batch: give "
                "`base_learning_rate`, the rate for 256 clips a step."
            )
        # blocks are compiled once for all of their kind; read by accelerate where `torch_compile` is asked for
        os.environ.setdefault("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "true")
        super().__post_init__()
        if self.lr_scheduler_type != TrainingArguments.lr_scheduler_type:
            raise ValueError(
                f"`lr_scheduler_type` {self.lr_scheduler_type.value!r} was given, but the schedule is the recipes' "
                "cosine: set `warmup_epochs`, `base_warmup_learning_rate` and `base_min_learning_rate`."
            )
        # without an accelerator there is nothing to pin for, and PyTorch warns of it at every epoch
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"
        # a copy that the host waits for would wait for all that the device has to do before it
        self.accelerator_config.non_blocking = self.dataloader_pin_memory

    @property
    def effective_batch_size(self) -> int:
        """Clips per optimiser step: processes x batch x accumulation x views per clip."""
        return self.world_size * self.train_batch_size * self.gradient_accumulation_steps * self.views_per_clip


class UMTTrainer(Trainer):
    """Base of the UMT trainers; a sub-class writes `compute_loss` for batches of `collate_clips`.

    Args are those of `transformers.Trainer`. `train_dataset` is a `VideoClipDataset` or `StreamedClipDataset`, several
    of one kind that alternate (`AlternatingClips`, `AlternatingStreams`), or any dataset whose samples have
    `pixel_values_videos` (frames, channels, height, width), uint8 or normalised float.
    """

    model_card = staticmethod(trainer_card)  # what makes the card of a trainer's model

    def __init__(
        self,
        model=None,
        args: UMTTrainingArguments | None = None,
        data_collator=None,
        run_facts: RunFacts | None = None,
        **kwargs,
    ):
        super().__init__(model=model, args=args, data_collator=data_collator or collate_clips, **kwargs)
        # The losses are means over a micro-batch. Because models take **kwargs, Trainer would else count the labels of
        # a step and leave out the division by the number of accumulated micro-batches.
        self.model_accepts_loss_kwargs = False
        if not self.args.absolute_learning_rate:
            self.args.learning_rate = scaled_learning_rate(
                self.args.base_learning_rate, self.args.effective_batch_size
            )
        self.timer = StepTimer(self.args.device)
        self.guard = NonFiniteGuard(self.accelerator, self.args.max_nonfinite_steps, self.args.output_dir)
        self.broken_videos = BrokenVideoLog(max_broken_share=self.args.max_broken_share)
        self.add_callback(self.guard)
        self.add_callback(RunReport(self))
        self.add_callback(CurvePicture)
        self.logged_at = (0, time.perf_counter())  # optimiser step and time of the last log line
        self.run: Any = None  # what a recipe says beside the arguments, for the model card
        self.run_facts = run_facts

    # --- optimisation --------------------------------------------------------------------------------------------

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(model, self.args.learning_rate, self.args.weight_decay, self.args.layer_decay)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None:
            args, batch = self.args, self.args.effective_batch_size
            self.lr_scheduler = cosine_schedule(
                self.optimizer if optimizer is None else optimizer,
                total_steps=num_training_steps,
                warmup_steps=self.num_warmup_steps(num_training_steps),
                learning_rate=args.learning_rate,
                min_learning_rate=scaled_learning_rate(args.base_min_learning_rate, batch),
                warmup_learning_rate=scaled_learning_rate(args.base_warmup_learning_rate, batch),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def num_warmup_steps(self, num_training_steps: int) -> int:
        """Optimiser steps of the warm-up in a run of `num_training_steps`."""
        if self.args.warmup_steps:
            return self.args.get_warmup_steps(num_training_steps)
        return round(num_training_steps * self.args.warmup_epochs / self.args.num_train_epochs)

    def _get_learning_rate(self) -> float:
        """The rate of the group with scale 1, which is the one a recipe names."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    # --- data ----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Clips in an order that is a function of (seed, epoch); other datasets as Trainer does."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        batch_size = self.args.train_batch_size * self.args.world_size
        if isinstance(dataset, AlternatingClips):
            return AlternatingSampler(dataset, batch_size)
        if isinstance(dataset, VideoClipDataset):
            return EpochSampler(dataset, batch_size)
        return super()._get_train_sampler(dataset)

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's loader; a stream shares itself out among processes, so it is only placed on the device."""
        if not isinstance(self.train_dataset, (StreamedClipDataset, AlternatingStreams)):
            return super().get_train_dataloader()
        args, num_workers = self.args, self.args.dataloader_num_workers
        if isinstance(self.train_dataset, AlternatingStreams):
            self.train_dataset.check_num_workers(num_workers)
        return DataLoaderShard(
            self.train_dataset,
            device=args.device,
            batch_size=self.train_dataset.batch_size,
            collate_fn=self.data_collator,
            num_workers=num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
            pin_memory=args.dataloader_pin_memory,
            _non_blocking=args.dataloader_pin_memory,
        )

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """Trainer's own, timed; what the loader says of broken videos is taken out of the batches here."""
        with self.timer.on_host("data"):
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self.broken_videos.add(batch.pop("broken", []), num_clips=self.num_videos(batch))
        return batches, num_items

    def num_videos(self, batch: dict[str, Any]) -> int:
        """Videos that were read for a batch; fewer than its clips where a video gives several views."""
        return len(batch["pixel_values_videos"])

    def pixel_values(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (batch, frames, channels, height, width) as models take them: uint8 is normalised on the device."""
        if clips.is_floating_point():
            return clips
        mean = torch.tensor(IMAGENET_DEFAULT_MEAN, device=clips.device).view(3, 1, 1)
        std = torch.tensor(IMAGENET_DEFAULT_STD, device=clips.device).view(3, 1, 1)
        return (clips / 255 - mean) / std

    # --- a step and what is said of it ---------------------------------------------------------------------------

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        with self.timer("step"):
            loss = super().training_step(model, inputs, num_items_in_batch)
        return self.guard.watch(loss, inputs)

    def _get_grad_norm(self, model, grad_norm=None):
        """Trainer's own; the guard skips a step whose norm is not finite."""
        self.guard.grad_norm = super()._get_grad_norm(model, grad_norm)
        return self.guard.grad_norm

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The objective on held-out clips; masks are drawn as in training."""
        inputs = self._prepare_inputs(inputs)
        inputs.pop("broken", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log line plus clips a second and the seconds a step that data, teacher and student took."""
        if "loss" in logs:
            self.guard.settle()
            share = self.guard.finite_share()
            if share > 0:
                logs["loss"] /= share  # the others were added as zeros
            else:
                del logs["loss"]
            logs.update(self.speed())
            if self.guard.num_skipped:
                logs["skipped_steps"] = self.guard.num_skipped
        super().log(logs, start_time)

    def _save_rng_state(self, output_dir: str) -> None:
        """As Trainer does; then waits, so that the state file, which the main process writes last, closes a checkpoint
        in which no process's part is missing."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def speed(self) -> dict[str, float]:
        """Clips a second over all processes and seconds a step by what they went into, since the last log line."""
        (last_step, last_time), now = self.logged_at, (self.state.global_step, time.perf_counter())
        self.logged_at = now
        steps = now[0] - last_step
        if steps == 0:
            return {}
        clips = steps * self.args.effective_batch_size / self.args.views_per_clip
        spans = self.timer.collect(steps)
        teacher, step = spans.get("teacher", 0.0), spans.get("step", 0.0)
        return {
            "clips_per_second": clips / (now[1] - last_time),
            "data_seconds": spans.get("data", 0.0),
            "teacher_seconds": teacher,
            "student_seconds": step - teacher,
        }

    def create_model_card(
        self, model_name: str | None = None, license: str | None = None, tags: list[str] | None = None
    ) -> None:
        """Write `README.md` into `output_dir`, as `model_card` makes it; pushing to the Hub calls this."""
        if self.is_world_process_zero():
            with atomic_write(os.path.join(self.args.output_dir, "README.md")) as temporary:
                self.model_card(self, model_name, license, tags).save(temporary)

    def describe_run(self, num_training_steps: int) -> str:
        """What a run is about to do, in a few lines: batch, rates, schedule, parameter groups."""
        args = self.args
        precision = "float32" if args.mixed_precision == "no" else f"{args.mixed_precision} with weights in float32"
        groups = ", ".join(
            f"{group.get('name', 'group')}: {sum(p.numel() for p in group['params']):,} parameters, "
            f"decay {group['weight_decay']:g}"
            for group in self.optimizer.param_groups
        )
        return (
            f"batch: {args.world_size} processes x {args.train_batch_size} clips x {args.gradient_accumulation_steps} "
            f"accumulated x {args.views_per_clip} views = {args.effective_batch_size}\n"
            f"{self.describe_rate()}\n"
            f"precision: {precision} on {args.device.type}\n"
            f"schedule: {num_training_steps} steps, of which {self.num_warmup_steps(num_training_steps)} warm-up\n"
            f"optimiser: {groups}"
        )

    def describe_rate(self) -> str:
        """Where the learning rate comes from."""
        return f"learning rate: {self.args.base_learning_rate:g} x batch / 256 = {self.args.learning_rate:.4g}"


class RunReport(TrainerCallback):
    """Says at the start what the run will do, and after every epoch which videos were broken."""

    def __init__(self, trainer: UMTTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        # Trainer seeds all processes alike: stochastic depth would drop the same layers for the same place in every
        # process's batch. A resumed run gets the states of its checkpoint after this.
        set_seed(args.seed + args.process_index)
        self.trainer.logged_at = (state.global_step, time.perf_counter())
        if state.is_world_process_zero:
            print(self.trainer.describe_run(state.max_steps), flush=True)

    def on_epoch_end(self, args, state, control, **kwargs):
        epoch = math.ceil(state.epoch)  # counted from 1; a run may end within one
        summary = self.trainer.broken_videos.end_epoch(epoch, os.path.join(args.output_dir, "broken_videos"))
        if summary["num_broken"] and state.is_world_process_zero:
            reasons = ", ".join(f"{reason} {count}" for reason, count in summary["reasons"].items())
            print(
                f"epoch {epoch}: {summary['num_broken']} attempts to read a video failed and were replaced "
                f"({reasons}); the videos are listed in {summary['report']}",
                flush=True,
            )
