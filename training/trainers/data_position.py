"""The position in the data at which a run resumes.

Trainer computes it from the number of steps alone. It is that of the checkpoint only if an epoch has the same number
of steps, which follows from the data and the effective batch.
"""

import math

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import has_length

from ..data.alternating_clips import AlternatingClips, AlternatingStreams
from ..data.video_dataset import ReadClipDataset
from ..data.video_stream import StreamedClipDataset

STREAMS = (AlternatingStreams, StreamedClipDataset)
COMPLETE_STEPS = (AlternatingClips, ReadClipDataset, *STREAMS)  # data whose epochs are complete steps


class DataPosition(TrainerCallback, ExportableState):
    """Refuses to resume at another position than that of the checkpoint, and saves how many readers a stream has.

    A resumed run continues with exactly the clips that are left in an epoch, except in a stream: the shards of a
    reader depend on the number of readers, processes x workers. With another number the run prints a note.
    """

    def __init__(self):
        self.num_readers: int | None = None  # of a stream, over all processes

    def state(self) -> dict:
        return {"args": {}, "attributes": {"num_readers": self.num_readers}}

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Check the position.

        Raises:
            ValueError: it is another one than that of the checkpoint.
        """
        # Trainer updates the entry when it saves; a checkpoint of an earlier version has none
        entry = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        saved = entry["attributes"]["num_readers"]
        data = train_dataloader.dataset
        is_stream = isinstance(data, STREAMS)
        self.num_readers = args.world_size * data.num_readers(train_dataloader.num_workers) if is_stream else None
        if state.global_step == 0 or not has_length(train_dataloader):
            return
        # the last step of an epoch may be incomplete in other data, by another part with another accumulation
        tolerance = 1e-3 if isinstance(data, COMPLETE_STEPS) else 1.0
        epoch = epoch_after(state.global_step, train_dataloader, args)
        check_epoch(state, epoch, num_steps_per_epoch(train_dataloader, args), tolerance)
        if saved not in (None, self.num_readers) and epoch % 1 > 0 and state.is_world_process_zero:
            print(
                f"the stream was read by {saved} readers (processes x workers) and is by {self.num_readers} now: in "
                "the rest of this epoch some of its videos are read twice and others not at all",
                flush=True,
            )


def num_steps_per_epoch(loader: DataLoader, args: TrainingArguments) -> int:
    return math.ceil(len(loader) / args.gradient_accumulation_steps)


def epoch_after(step: int, loader: DataLoader, args: TrainingArguments) -> float:
    """The number of epochs that a number of steps takes."""
    epochs, steps = divmod(step, num_steps_per_epoch(loader, args))
    return epochs + steps * args.gradient_accumulation_steps / len(loader)


def check_epoch(state: TrainerState, epoch: float, num_steps: int, tolerance: float) -> None:
    """Raise a ValueError if the checkpoint of a state is not at an epoch.

    Args:
        state: The state of the checkpoint.
        epoch: The number of epochs that its steps take now.
        num_steps: The number of steps in an epoch now.
        tolerance: The distance that is refused, in steps.
    """
    if abs(state.epoch - epoch) * num_steps >= tolerance:
        raise ValueError(
            f"The checkpoint was saved after {state.global_step} steps in epoch {state.epoch:.2f}, but with the data "
            f"and the batch given now an epoch has {num_steps} steps, and these steps are {epoch:.2f} epochs. Resume "
            "with the same data, or start a new run from the checkpoint's weights."
        )
