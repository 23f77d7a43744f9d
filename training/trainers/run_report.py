"""What a run prints beside its log lines: a description at its start, and numbers of videos after every epoch."""

import math
import os
import time

from transformers import Trainer, TrainerCallback, set_seed


class RunReport(TrainerCallback):
    """Prints a description of the run at its start, and after every epoch the numbers of broken and repeated
    videos."""

    def __init__(self, trainer: Trainer):
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
        samples, repeated, reads = self.trainer.repeated_videos.end_epoch()
        if repeated and state.is_world_process_zero:
            print(
                f"epoch {epoch}: {repeated} of {samples} clips are of videos that had been read before in this epoch, "
                f"up to {reads} times in all: a process or worker reads its shards again if they have fewer readable "
                "videos than its part of the epoch; put equally many videos in each shard, or reduce the clips per "
                "epoch",
                flush=True,
            )
