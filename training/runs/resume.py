"""Start and end of every training run: resume from the last checkpoint, save with a model card.

Unusual: a checkpoint is used only if it is complete, which its state file shows, as Trainer writes that file last. A
run that was killed while it saved resumes from the checkpoint before; Trainer would take the newest folder and fail.
"""

import json
import re
from pathlib import Path

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..atomic_files import atomic_write
from ..trainers.base_trainer import UMTTrainer


def train_or_resume(trainer: UMTTrainer) -> None:
    """Train from `resume_from_checkpoint`, the last complete checkpoint in `output_dir`, or the start.

    A finished run is not trained again: its best checkpoint is loaded, if it was to choose one.

    Raises:
        ValueError: not all processes see the checkpoint.
    """
    args = trainer.args
    finished = None if args.resume_from_checkpoint else finished_run(trainer)
    if all(gather_object([finished is not None])):
        if trainer.is_world_process_zero():
            print(f"the run is finished; its best checkpoint is {finished.best_model_checkpoint}", flush=True)
        trainer.state = finished
        trainer._load_best_model()
        return
    checkpoint = args.resume_from_checkpoint or common_checkpoint(args.output_dir)
    if checkpoint is not None and trainer.is_world_process_zero():
        print(f"resuming from {checkpoint}", flush=True)
    trainer.add_callback(SaveFinalState)
    trainer.train(resume_from_checkpoint=checkpoint)


class SaveFinalState(TrainerCallback):
    """Saves the state of a finished run in `output_dir` with its last checkpoint, before Trainer deletes all but the
    best one: a run interrupted after that would otherwise train again from the best checkpoint to the end."""

    def on_save(self, args, state, control, **kwargs):
        is_finished = state.global_step >= state.max_steps or control.should_training_stop  # or stopped early
        if is_finished and state.is_world_process_zero:
            with atomic_write(Path(args.output_dir, TRAINER_STATE_NAME)) as temporary:
                state.save_to_json(str(temporary))


def finished_run(trainer: UMTTrainer) -> TrainerState | None:
    """The state of a run that has done all its steps and chosen a checkpoint; None for other runs."""
    args, path = trainer.args, Path(trainer.args.output_dir, TRAINER_STATE_NAME)
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # they load checkpoints into a wrapped model
    if not args.load_best_model_at_end or is_sharded or not path.is_file():
        return None
    state = TrainerState.load_from_json(str(path))
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    if args.max_steps > 0:
        is_longer = args.max_steps > state.max_steps
    else:
        is_longer = args.num_train_epochs > state.num_train_epochs
    has_best = state.best_model_checkpoint is not None and Path(state.best_model_checkpoint).is_dir()
    return state if has_best and not is_longer else None


def save_with_card(trainer: UMTTrainer) -> None:
    """Save the model, its code, its processor and its card in `output_dir`; push them if `push_to_hub` is set."""
    trainer.save_state()
    trainer.save_model()
    if not trainer.args.push_to_hub:  # pushing writes the card too
        trainer.create_model_card()


def common_checkpoint(folder: str) -> str | None:
    """The last complete checkpoint that the main process sees, for all processes.

    Raises:
        ValueError: another process does not see it.
    """
    (checkpoint,) = broadcast_object_list([last_checkpoint(folder)])
    if checkpoint is not None:
        state = Path(checkpoint, TRAINER_STATE_NAME)
        if not all(gather_object([state.is_file() and is_json(state)])):
            raise ValueError(
                f"Not all processes see {checkpoint}, from which the run would resume: `output_dir` must be in a file "
                "system that all machines share."
            )
    return checkpoint


def last_checkpoint(folder: str) -> str | None:
    """The newest complete checkpoint in a folder; None if there is none, or the folder does not exist."""
    states = Path(folder).glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    steps = {int(state.parent.name[11:]): state for state in states if re.fullmatch(r"\d+", state.parent.name[11:])}
    complete = [step for step, state in steps.items() if is_json(state)]
    return str(steps[max(complete)].parent) if complete else None


def is_json(path: Path) -> bool:
    """Whether a file is complete JSON: Trainer may have been killed while it wrote the file."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
