"""Beginning and end that every training run has in common: go on from the last checkpoint, save with a model card.

Unusual: a checkpoint counts only if it was written to its end, of which Trainer's state file is the sign. A run that
was killed while it saved goes on from the checkpoint before, where Trainer's own choice of the newest folder fails.
"""

import json
import re
from pathlib import Path

from ..video_trainer import UMTTrainer


def train_to_end(trainer: UMTTrainer) -> None:
    """Train from `resume_from_checkpoint`, the last whole checkpoint in `output_dir`, or the start."""
    checkpoint = trainer.args.resume_from_checkpoint or last_checkpoint(trainer.args.output_dir)
    if checkpoint is not None and trainer.is_world_process_zero():
        print(f"resuming from {checkpoint}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)


def save_with_card(trainer: UMTTrainer) -> None:
    """Save the model, its code, its processor and its card in `output_dir`; push them if `push_to_hub` is set."""
    trainer.save_state()
    trainer.save_model()
    if not trainer.args.push_to_hub:  # pushing writes the card too
        trainer.create_model_card()


def last_checkpoint(folder: str) -> str | None:
    """The newest whole checkpoint in a folder; None if there is none, or no such folder."""
    states = Path(folder).glob("checkpoint-*/trainer_state.json")
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
