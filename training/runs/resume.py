"""Start and end of every training run: resume from the last checkpoint, save with a model card.

Unusual: a checkpoint is used only if it is complete and undamaged, by its checksums. A run that was killed while it
saved resumes from the checkpoint before; Trainer would take the newest folder and fail.
"""

import datetime
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from peft import PeftModel
from safetensors.torch import load_model
from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from ..cards.trainer_card import evaluations_of_weights
from ..pictures.run_page import Section
from ..pictures.run_pictures import warn_on_failure
from ..trainers.base_trainer import UMTTrainer
from ..trainers.checkpoint_files import checkpoint_problem
from ..trainers.run_progress import log_line
from ..trainers.run_state import RunState
from .run_folder import RunFolder
from .run_page import PAGE, write_run_page


def run_to_end(
    trainer: UMTTrainer,
    folder: RunFolder,
    next_command: str,
    *,
    class_names: Sequence[str] = (),
    evaluate: Callable[[], list[Section]] | None = None,
    before_saving: Callable[[], None] | None = None,
) -> UMTTrainer:
    """Train a run, or the rest of it, save the model with its card and the page of the run, and report the result. A
    complete run is loaded.

    Args:
        trainer: The trainer of the run.
        folder: The folder of the run.
        next_command: A command that uses the model, to print at the end.
        class_names: Names of the classes, which must not change when the run is resumed.
        evaluate (*optional*): Called by all processes after training; returns sections for the page.
        before_saving (*optional*): Called with the trained model in the trainer.

    Returns:
        The trainer, with the trained model.
    """
    if folder.is_complete:
        load_complete(trainer)
        return trainer
    train_or_resume(trainer, folder, class_names)
    sections = [] if evaluate is None else evaluate()
    if before_saving is not None:
        before_saving()
    save_with_card(trainer)
    if trainer.is_world_process_zero():
        with warn_on_failure("its page"):
            write_run_page(trainer, next_command, sections)
    folder.finish(pushed=trainer.args.push_to_hub)
    report_end(trainer, next_command)
    return trainer


def train_or_resume(trainer: UMTTrainer, folder: RunFolder, class_names: Sequence[str] = ()) -> None:
    """Train from `resume_from_checkpoint`, the last complete checkpoint in `output_dir`, or the start.

    A run that has done all its steps, but was interrupted before its model was saved, is not trained again: its
    weights are those of its best checkpoint, if it was to choose one, or of its last.

    Raises:
        ValueError: the training data changed since the run started, the best checkpoint is missing, or not all
            processes see the last one.
    """
    args, data = trainer.args, training_data(trainer, class_names)
    folder.check(folder.data, data)
    checkpoint = args.resume_from_checkpoint or common_checkpoint(args.output_dir, trainer.model)
    finished = None if args.resume_from_checkpoint else finished_run(trainer, checkpoint)
    if all(gather_object([finished is not None])):
        folder.start(data)
        trainer.state, weights = finished
        if trainer.is_world_process_zero():
            print(f"all {trainer.state.global_step} steps are done; the weights are those of {weights}", flush=True)
        best, trainer.state.best_model_checkpoint = trainer.state.best_model_checkpoint, weights
        trainer._load_best_model()
        trainer.state.best_model_checkpoint = best
        return
    if checkpoint is not None and trainer.is_world_process_zero():
        print(f"resuming from {checkpoint}", flush=True)
    trainer.add_callback(StartRun(folder, data))
    trainer.add_callback(SaveFinalState)
    trainer.train(resume_from_checkpoint=checkpoint)


def training_data(trainer: UMTTrainer, class_names: Sequence[str]) -> dict[str, Any]:
    """Facts about the training data that must not change between the start of a run and its end."""
    data = {"classes": list(class_names)} if class_names else {}
    if not isinstance(trainer.train_dataset, IterableDataset):  # the length of a stream is a setting
        data["training clips"] = len(trainer.train_dataset)
    return data


class StartRun(TrainerCallback):
    """Writes `run.json` before the first step, but not for a checkpoint that the trainer refuses: its settings would
    then be those of the folder.

    Args:
        folder: The folder of the run.
        data: Facts about the training data.
    """

    def __init__(self, folder: RunFolder, data: dict[str, Any]):
        self.folder, self.data = folder, data

    def on_train_begin(self, args, state, control, **kwargs):
        self.folder.start(self.data)


class SaveFinalState(TrainerCallback):
    """Saves the state of a run that has done all its steps in `output_dir`, with its last checkpoint. Without it, a
    run interrupted after Trainer has deleted all checkpoints but the best would train again from there to the end."""

    def on_save(self, args, state, control, **kwargs):
        is_finished = state.global_step >= state.max_steps or control.should_training_stop  # or stopped early
        if is_finished and state.is_world_process_zero:
            state.save_to_json(os.path.join(args.output_dir, TRAINER_STATE_NAME))


def finished_run(trainer: UMTTrainer, last: str | None) -> tuple[RunState, str] | None:
    """The state of a run that has done all its steps and the checkpoint with its weights; None for other runs.

    Args:
        trainer: The trainer of the run.
        last: The last complete checkpoint in `output_dir`.
    """
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # they load checkpoints into a wrapped model
    if last is None or is_sharded or not Path(trainer.args.output_dir, TRAINER_STATE_NAME).is_file():
        return None
    state = saved_state(trainer)
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
        return (state, state.best_model_checkpoint) if Path(state.best_model_checkpoint).is_dir() else None
    return (state, last) if Path(last).name == f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" else None


def saved_state(trainer: UMTTrainer) -> RunState:
    """The state that a run has saved in `output_dir`."""
    folder = trainer.args.output_dir
    state = RunState(TrainerState.load_from_json(str(Path(folder, TRAINER_STATE_NAME))), folder, loaded_from=folder)
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    return state


def load_complete(trainer: UMTTrainer) -> None:
    """Load state and weights of a complete run into its trainer, and print that nothing is trained."""
    folder = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        print(f"the run in {folder} is complete; nothing is trained or changed", flush=True)
    trainer.state = saved_state(trainer)
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        if isinstance(trainer.model, PeftModel):  # the adapter was merged
            trainer.model = trainer.model.unload()
        load_model(trainer.model, folder / SAFE_WEIGHTS_NAME)
    else:
        trainer.model.load_adapter(folder, trainer.model.active_adapter)


def report_end(trainer: UMTTrainer, next_command: str) -> None:
    """Print the result of a run, where it is saved, and a command that uses it."""
    if not trainer.is_world_process_zero():
        return
    folder, state = trainer.args.output_dir, trainer.state
    seconds = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    print("done" + (f" in {datetime.timedelta(seconds=round(seconds[-1]))}" if seconds else ""))
    for entry in evaluations_of_weights(trainer):
        metrics = {name: value for name, value in entry.items() if name != "step"}
        print(f"saved weights, {log_line(metrics, entry['step'], state.max_steps, entry['epoch'])}")
    card, page = (os.path.join(folder, name) for name in ("README.md", PAGE))
    print(f"saved to {folder}: weights, processor, code, the model card {card}, and the page {page}")
    print(f"next: {next_command}", flush=True)


def save_with_card(trainer: UMTTrainer) -> None:
    """Save the model, its code, its processor and its card in `output_dir`; push them if `push_to_hub` is set."""
    trainer.save_state()
    trainer.save_model()
    if not trainer.args.push_to_hub:  # pushing writes the card too
        trainer.create_model_card()


def common_checkpoint(folder: str, model: nn.Module | None = None) -> str | None:
    """The last complete checkpoint of a model that the main process sees, for all processes.

    Raises:
        ValueError: another process does not see it.
    """
    is_main = PartialState().is_main_process
    (checkpoint,) = broadcast_object_list([last_checkpoint(folder, model) if is_main else None])
    if checkpoint is not None and not all(gather_object([Path(checkpoint, TRAINER_STATE_NAME).is_file()])):
        raise ValueError(
            f"Not all processes see {checkpoint}, from which the run would resume: `output_dir` must be in a file "
            "system that all machines share."
        )
    return checkpoint


def last_checkpoint(folder: str, model: nn.Module | None = None) -> str | None:
    """The newest complete checkpoint in a folder; None if there is none, or the folder does not exist.

    Newer ones that are not complete, or are of another model than `model`, are named in a line each.
    """
    paths = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[1].isdecimal()]
    for path in sorted(paths, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        problem = checkpoint_problem(path, model)
        if problem is None:
            return str(path)
        print(f"{path} is not used: {problem}", flush=True)
    return None
