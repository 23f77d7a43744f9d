"""The base class of the UMT trainers: data order, broken videos, schedule, logging, non-finite losses, model card.

It extends Transformers' `Trainer`, which provides launchers, accumulation, mixed precision, checkpoints and resuming,
by what the recipes of arXiv 2303.16058 need:

- the learning rate follows from the effective batch, with the official parameter groups and schedule;
- every random choice about a clip is a function of (seed, epoch, index), so the results do not depend on resuming or
  on the number of workers and processes;
- clips arrive as `uint8`, are copied from pinned memory while the device computes, and are normalised on the device;
- broken videos and non-finite losses are counted and tolerated up to a limit;
- each log line reports where the time went.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    set_seed,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import get_last_checkpoint

from ..atomic_files import atomic_write
from ..cards.run_facts import RunFacts
from ..cards.saved_model import ADAPTER, BASE
from ..cards.trainer_card import CardSections, trainer_card
from ..cards.video_card import video_sections
from ..data.alternating_clips import AlternatingClips, AlternatingSampler, AlternatingStreams
from ..data.batching import is_dead_worker
from ..data.broken_videos import BrokenVideoLog
from ..data.video_dataset import EpochSampler, ReadClipDataset, collate_clips
from ..data.video_stream import StreamedClipDataset
from ..pictures.run_pictures import CURVES, CurvePicture
from .checkpoint_files import checkpoint_problem
from .nonfinite_guard import NonFiniteGuard
from .optimization import cosine_schedule, parameter_groups, scaled_learning_rate
from .run_progress import RunProgress
from .run_state import OptimizerSettings, RunState
from .step_timer import StepTimer
from .stop_signal import StopOnSignal
from .training_arguments import UMTTrainingArguments


def cores_per_process() -> int:
    """Cores that this process may use, shared among the processes of a launcher on this machine; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class UMTTrainer(Trainer):
    """Base class of the UMT trainers. A sub-class implements `compute_loss` for batches of `collate_clips`.

    Args:
        model (`PreTrainedModel`): The model to train.
        args ([`UMTTrainingArguments`]): The training arguments.
        data_collator (*optional*): Makes batches of samples; defaults to `collate_clips`.
        run_facts ([`RunFacts`], *optional*): Facts about the run for the model card that the trainer can't know.
        kwargs: Further arguments of `transformers.Trainer`. `train_dataset` is a `VideoClipDataset`, a
            `StreamedClipDataset`, several of one kind that alternate (`AlternatingClips`, `AlternatingStreams`), or
            any dataset whose samples have `pixel_values_videos` (frames, channels, height, width), uint8 or
            normalised float.
    """

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: UMTTrainingArguments | None = None,
        data_collator: Callable | None = None,
        *,
        run_facts: RunFacts | None = None,
        **kwargs,
    ):
        self.resumed_folder: str | None = None  # folder of the checkpoint from which training resumes
        super().__init__(model=model, args=args, data_collator=data_collator or collate_clips, **kwargs)
        # The losses are means over a micro-batch. Since the models take **kwargs, Trainer would otherwise count the
        # labels of a step and omit the division by the number of accumulated micro-batches.
        self.model_accepts_loss_kwargs = False
        if not self.args.absolute_learning_rate:
            self.args.learning_rate = scaled_learning_rate(
                self.args.base_learning_rate, self.args.effective_batch_size
            )
        # more workers than cores slow each other down, and PyTorch would warn about them in every epoch
        self.num_workers_given = self.args.dataloader_num_workers
        self.args.dataloader_num_workers = min(self.num_workers_given, cores_per_process())
        self.timer = StepTimer(self.args.device)
        self.guard = NonFiniteGuard(self.accelerator, self.args.max_nonfinite_steps, self.args.output_dir)
        self.broken_videos = BrokenVideoLog(max_broken_share=self.args.max_broken_share)
        self.replace_progress_callback()
        self.add_callback(self.guard)
        self.add_callback(RunReport(self))
        self.optimizer_settings = OptimizerSettings.of(self.args)
        self.add_callback(self.optimizer_settings)
        self.add_callback(CurvePicture)
        self.stop_on_signal = StopOnSignal(self.accelerator)
        self.add_callback(self.stop_on_signal)
        self.logged_at = (0, time.perf_counter())  # optimiser step and time of the last log line
        self.run_facts = run_facts or RunFacts()

    # --- state -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        return self._state

    @state.setter
    def state(self, state: TrainerState) -> None:
        """Trainer assigns a new state, or one loaded from the checkpoint that it resumes from."""
        if not isinstance(state, RunState):
            state = RunState(state, self.args.output_dir, loaded_from=self.resumed_folder or self.args.output_dir)
        self._state = state

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train as `Trainer` does.

        Raises:
            ValueError: the checkpoint was saved with another effective batch size or other settings of the optimiser,
                or it is damaged or not complete.
            TrainingStopped: the process received SIGTERM or SIGUSR1; a checkpoint is saved.
            OSError: a worker process of the data loader died.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir) or True  # Trainer refuses True
        if isinstance(resume_from_checkpoint, str):
            is_main, checkpoint = self.is_world_process_zero(), Path(resume_from_checkpoint)
            (problem,) = broadcast_object_list([checkpoint_problem(checkpoint) if is_main else None])
            if problem is not None:
                raise ValueError(f"Training can't resume from {resume_from_checkpoint}: {problem}.")
            self.optimizer_settings.check(resume_from_checkpoint)
            self.resumed_folder = os.path.dirname(os.path.abspath(resume_from_checkpoint))
        try:
            with self.stop_on_signal.handled():
                return super().train(resume_from_checkpoint, **kwargs)
        except RuntimeError as error:
            if not is_dead_worker(error):
                raise
            raise OSError(
                f"A worker process of the data loader died at step {self.state.global_step}, usually because the "
                "memory was exhausted: reduce `dataloader_num_workers` and resume from the last checkpoint. "
                f"({error})"
            ) from error

    def replace_progress_callback(self) -> None:
        """Print lines for people instead of Trainer's dictionaries; a notebook keeps Trainer's table."""
        for index, callback in enumerate(self.callback_handler.callbacks):
            if type(callback) in (ProgressCallback, PrinterCallback):
                self.callback_handler.callbacks[index] = RunProgress()

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
        """Number of optimiser steps of the warm-up in a run of `num_training_steps`, at most all of them."""
        if self.args.warmup_steps:
            num_steps = self.args.get_warmup_steps(num_training_steps)
        else:
            num_steps = round(num_training_steps * self.args.warmup_epochs / self.args.num_train_epochs)
        return min(num_steps, num_training_steps)

    def _get_learning_rate(self) -> float:
        """The learning rate of the group with scale 1, which is the one given by a recipe."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    # --- data ----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Clips are sampled in an order that is a function of (seed, epoch), other datasets as in `Trainer`."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        strategy = self.args.train_sampling_strategy
        if isinstance(dataset, (AlternatingClips, ReadClipDataset)) and strategy != "random":
            raise ValueError(
                f"`train_sampling_strategy` {strategy!r} was given, but clips are sampled in random order."
            )
        batch_size = self.args.train_batch_size * self.args.world_size
        if isinstance(dataset, AlternatingClips):
            return AlternatingSampler(dataset, batch_size)
        if isinstance(dataset, ReadClipDataset):
            return EpochSampler(dataset, batch_size)
        return super()._get_train_sampler(dataset)

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's loader, except for streams, which are sharded across processes already."""
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
        """Trainer's method, timed. Removes the loader's report of broken videos from the batches and counts it."""
        with self.timer.on_host("data"):
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self.broken_videos.add(batch.pop("broken", []), num_clips=self.num_videos(batch))
        return batches, num_items

    def num_videos(self, batch: dict[str, Any]) -> int:
        """Number of videos read for a batch; smaller than its number of clips if a video gives several views."""
        return len(batch["pixel_values_videos"])

    def pixel_values(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (batch, frames, channels, height, width) as model input: uint8 is normalised on the device."""
        if clips.is_floating_point():
            return clips
        mean = torch.tensor(IMAGENET_DEFAULT_MEAN, device=clips.device).view(3, 1, 1)
        std = torch.tensor(IMAGENET_DEFAULT_STD, device=clips.device).view(3, 1, 1)
        return (clips / 255 - mean) / std

    # --- steps and their log lines -------------------------------------------------------------------------------

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        with self.timer("step"):
            loss = super().training_step(model, inputs, num_items_in_batch)
        return self.guard.record(loss, inputs)

    def _get_grad_norm(self, model, grad_norm=None):
        """Trainer's method; passes the norm to the guard, which skips a step whose norm is not finite."""
        self.guard.grad_norm = super()._get_grad_norm(model, grad_norm)
        return self.guard.grad_norm

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss on held-out clips; masks are sampled as in training."""
        self.report_broken_videos(inputs)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def report_broken_videos(self, inputs: dict[str, Any]) -> None:
        """Remove the loader's report of broken videos from an evaluation batch and print it."""
        for name, reason in inputs.pop("broken", []):
            print(f"evaluation: {name} cannot be read ({reason}); replaced by another video", flush=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log line with clips a second, and seconds a step of data, teacher and student."""
        if "loss" in logs:
            self.guard.flush()
            finite = self.guard.finite_fraction()
            if finite > 0:
                logs["loss"] /= finite  # non-finite losses were added as zeros
            else:
                del logs["loss"]
            logs.update(self.speed())
            if self.guard.num_skipped:
                logs["skipped_steps"] = self.guard.num_skipped
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Trainer's method without its file of pickled arguments, which contains the token of the Hub and local paths
        and would be uploaded with the model. An adapter that is pushed refers to its base in the repository."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        adapter = folder / ADAPTER[0]
        if self.args.push_to_hub and adapter.is_file():
            config = json.loads(adapter.read_text(encoding="utf-8")) | {"base_model_name_or_path": BASE}
            adapter.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")

    def _save_rng_state(self, output_dir: str) -> None:
        """Trainer's method, then a barrier: the main process writes the state file last, so a checkpoint with a state
        file contains the files of all processes."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def speed(self) -> dict[str, float]:
        """Clips a second over all processes, and seconds a step of each part, since the last log line."""
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
        """Write the model card to `README.md` in `output_dir`; called when the model is pushed to the Hub."""
        if self.is_world_process_zero():
            if os.path.exists(os.path.join(self.args.output_dir, CURVES)):
                self.run_facts = dataclasses.replace(self.run_facts, curves=CURVES)
            card = trainer_card(self, self.card_sections(), model_name, license, tags)
            with atomic_write(os.path.join(self.args.output_dir, "README.md")) as temporary:
                card.save(temporary)

    def card_sections(self) -> CardSections:
        """The parts of the model card that depend on the objective."""
        return video_sections(self)

    def describe_data(self) -> str:
        """Sizes of the training and evaluation data, and the number of worker processes, in a line."""
        clips = f"{len(self.train_dataset):,} clips"
        if isinstance(self.train_dataset, IterableDataset):
            clips = "a stream of clips"
        evaluation = "" if self.eval_dataset is None else f", {len(self.eval_dataset):,} for evaluation"
        workers, given = self.args.dataloader_num_workers, self.num_workers_given
        limit = f" ({given} given, limited to the cores)" if workers < given else ""
        return f"data: {clips}{evaluation}; {workers} workers{limit}"

    def describe_settings(self, num_training_steps: int) -> str:
        """Batch, learning rate, schedule, optimiser and precision of a run, in a line, and a note on its warm-up."""
        args, num_warmup_steps = self.args, self.num_warmup_steps(num_training_steps)
        precision = "float32" if args.mixed_precision == "no" else f"{args.mixed_precision} with weights in float32"
        num_trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        settings = (
            f"settings: batch {args.world_size} processes x {args.train_batch_size} clips x "
            f"{args.gradient_accumulation_steps} accumulated x {args.views_per_clip} views = "
            f"{args.effective_batch_size}, {self.describe_learning_rate()}, {num_training_steps} steps of which "
            f"{num_warmup_steps} warm-up, {num_trained:,} trained parameters, {args.optim.value} with weight decay "
            f"{args.weight_decay:g}, {precision} on {args.device.type}"
        )
        if num_warmup_steps == num_training_steps:
            settings += (
                "\nthe warm-up takes the whole run, so the learning rate does not decay: reduce `warmup_epochs`"
            )
        return settings

    def describe_learning_rate(self) -> str:
        """The peak learning rate and how it was computed."""
        return f"learning rate {self.args.base_learning_rate:g} x batch / 256 = {self.args.learning_rate:.4g}"


class RunReport(TrainerCallback):
    """Prints a description of the run at its start, and the number of broken videos after every epoch."""

    def __init__(self, trainer: UMTTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        # Trainer uses the same seed in all processes, so stochastic depth would drop the same layers for the same
        # index in the batch of every process. A resumed run loads the generator states of its checkpoint after this.
        set_seed(args.seed + args.process_index)
        self.trainer.logged_at = (state.global_step, time.perf_counter())
        if state.is_world_process_zero:
            print(self.trainer.describe_data(), self.trainer.describe_settings(state.max_steps), sep="\n", flush=True)

    def on_epoch_end(self, args, state, control, **kwargs):
        epoch = math.ceil(state.epoch)  # counted from 1; a run may end within an epoch
        folder = os.path.join(args.output_dir, "broken_videos")
        summary = self.trainer.broken_videos.end_epoch(epoch, folder, self.trainer.run_facts.data)
        if summary["num_broken"] and state.is_world_process_zero:
            reasons = ", ".join(f"{reason} {count}" for reason, count in summary["reasons"].items())
            print(
                f"epoch {epoch}: {summary['num_broken']} attempts to read a video failed and were replaced "
                f"({reasons}); the videos are listed in {summary['report']}",
                flush=True,
            )
