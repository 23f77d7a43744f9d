"""What Trainer's state file lacks for resuming: a path of the best checkpoint that stays valid when the folder of the
run is moved, and the settings of the optimiser, among them the effective batch size, on which the learning rate
and the number of steps in an epoch depend.
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path

from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..atomic_files import atomic_write
from .checkpoint_files import write_checksums

KEEP_BATCH = (
    "The effective batch is processes x `per_device_train_batch_size` x `gradient_accumulation_steps` x views: with "
    "another number of processes, change the batch or the accumulation so that the product stays the same."
)


class RunState(TrainerState):
    """A `TrainerState` in whose file `best_model_checkpoint` is relative to the `output_dir` of the run.

    Trainer writes the state of a checkpoint last; checksums of its other files are written before it.

    Args:
        state: The state of a new run, or as loaded from a file.
        output_dir: The folder of the run.
        loaded_from: The folder that a relative `best_model_checkpoint` of `state` starts from.
    """

    def __init__(self, state: TrainerState, output_dir: str, loaded_from: str):
        vars(self).update(vars(state))
        self.output_dir = output_dir
        if self.best_model_checkpoint is not None:
            self.best_model_checkpoint = os.path.normpath(os.path.join(loaded_from, self.best_model_checkpoint))

    def save_to_json(self, json_path: str) -> None:
        stored = copy.copy(self)
        if stored.best_model_checkpoint is not None:
            stored.best_model_checkpoint = os.path.relpath(stored.best_model_checkpoint, self.output_dir)
        path = Path(json_path)
        if path.parent.name.startswith(PREFIX_CHECKPOINT_DIR):
            write_checksums(path.parent)
        with atomic_write(path) as temporary:
            TrainerState.save_to_json(stored, str(temporary))


class OptimizerSettings(TrainerCallback, ExportableState):
    """Saves the settings of the optimiser in the state file of each checkpoint, and refuses to resume with others.

    The optimiser's state restores the saved values, without a message and whatever the arguments say.
    """

    NAMES = (
        "effective_batch_size", "learning_rate", "layer_decay", "weight_decay", "adam_beta1", "adam_beta2",
        "adam_epsilon",
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, float]):
        self.settings = dict(settings)

    @classmethod
    def of(cls, args: TrainingArguments) -> "OptimizerSettings":
        return cls({name: getattr(args, name) for name in cls.NAMES})

    def state(self) -> dict:
        return {"args": {"settings": self.settings}, "attributes": {}}

    def check(self, checkpoint: str) -> None:
        """Compare the settings with those in the state file of a checkpoint.

        Raises:
            ValueError: one of them differs.
        """
        path = Path(checkpoint, TRAINER_STATE_NAME)
        callbacks = TrainerState.load_from_json(str(path)).stateful_callbacks if path.is_file() else {}
        saved = callbacks.get(type(self).__name__, {"args": {"settings": {}}})["args"]["settings"]
        changed = [
            f"`{name}` {saved[name]:g} (now {value:g})"
            for name, value in self.settings.items()
            if saved.get(name, value) != value
        ]
        if changed:
            advice = f" {KEEP_BATCH}" if any("`effective_batch_size`" in text for text in changed) else ""
            raise ValueError(
                f"{checkpoint} was saved with {', '.join(changed)}; a resumed run keeps the settings of its "
                f"optimiser. Resume with the saved values, or start a new run from the checkpoint's weights.{advice}"
            )
