"""Beginning and end that every training run has in common: go on from the last checkpoint, save with a model card.

Unusual: a checkpoint counts only if it was written to its end, of which Trainer's state file is the sign. A run that
was killed while it saved goes on from the checkpoint before, where Trainer's own choice of the newest folder fails.
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
    """Train from `resume_from_checkpoint`, the last whole checkpoint in `output_dir`, or the start.

    A run that had trained to its end takes the best checkpoint, if it was to choose one, and trains no more.

    Raises:
        ValueError: processes that do not all see the checkpoint.
    """
    args = trainer.args
    ended = None if args.resume_from_checkpoint else ended_run(trainer)
    if all(gather_object([ended is not None])):
        if trainer.is_world_process_zero():
            print(f"trained to its end before; the best checkpoint is {ended.best_model_checkpoint}", flush=True)
        trainer.state = ended
        trainer._load_best_model()
        return
    checkpoint = args.resume_from_checkpoint or common_checkpoint(args.output_dir)
    if checkpoint is not None and trainer.is_world_process_zero():
        print(f"resuming from {checkpoint}", flush=True)
    trainer.add_callback(SaveFinalState)
    trainer.train(resume_from_checkpoint=checkpoint)


class SaveFinalState(TrainerCallback):
    """Leaves the state of a run in `output_dir` with its last checkpoint, before Trainer deletes all but the best one:
    from that one an interrupted end would else be trained again."""

    def on_save(self, args, state, control, **kwargs):
        has_ended = state.global_step >= state.max_steps or control.should_training_stop  # or stopped early
        if has_ended and state.is_world_process_zero:
            with atomic_write(Path(args.output_dir, TRAINER_STATE_NAME)) as temporary:
                state.save_to_json(str(temporary))


def ended_run(trainer: UMTTrainer) -> TrainerState | None:
    """The state of a run that has trained as long as it is asked to, and has chosen a checkpoint; else None."""
    args, path = trainer.args, Path(trainer.args.output_dir, TRAINER_STATE_NAME)
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # those load into a model that is wrapped
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
    """The last whole checkpoint that the main process sees, for all processes.

    Raises:
        ValueError: another process does not see it.
    """
    (checkpoint,) = broadcast_object_list([last_checkpoint(folder)])
    if checkpoint is not None:
        state = Path(checkpoint, TRAINER_STATE_NAME)
        if not all(gather_object([state.is_file() and is_json(state)])):
            raise ValueError(
                f"Not all processes see {checkpoint}, from which the run would go on: `output_dir` must be in a file "
                "system that all machines share."
            )
    return checkpoint


def last_checkpoint(folder: str) -> str | None:
    """The newest whole checkpoint in a folder; None if there is none, or no such folder."""
    states = Path(folder).glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    steps = {int(state.parent.name[11:]): state for state in states if re.fullmatch(r"\d+", state.parent.name[11:])}
    whole = [step for step, state in steps.items() if is_json(state)]
    return str(steps[max(whole)].parent) if whole else None


def is_json(path: Path) -> bool:
    """Whether a file holds JSON to its end: Trainer may have been killed while it wrote it."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
