"""`run.json`, the file in which a run's folder keeps its settings, and whether the run is complete.

A second start with the same settings resumes the run, or changes nothing if it is complete. Other settings are
refused: the schedule depends on all of them, and the card describes one set. Settings that do not change the result,
such as the number of workers or how often a checkpoint is saved, may change. The batch per device and the
accumulation may change if their product with the number of processes stays the same.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..atomic_files import atomic_write
from ..trainers.checkpoint_files import read_mapping
from ..trainers.run_state import KEEP_BATCH
from ..trainers.training_arguments import UMTTrainingArguments

FILE_NAME = "run.json"
WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, ADAPTER_SAFE_WEIGHTS_NAME)

# Fields of the arguments that do not change the trained weights, or not beyond rounding; prefixes end with `_`.
FREE = {
    # files and log lines
    "output_dir", "resume_from_checkpoint", "run_name", "project", "report_to", "disable_tqdm", "debug", "log_",
    "logging_", "trackio_", "hub_", "push_to_hub", "save_steps", "save_strategy", "save_total_limit",
    "save_on_each_node", "enable_jit_checkpoint", "skip_memory_metrics", "include_num_input_tokens_seen",
    # evaluation
    "do_train", "do_eval", "do_predict", "eval_", "per_device_eval_batch_size", "bf16_full_eval", "fp16_full_eval",
    "batch_eval_metrics", "include_for_metrics", "prediction_loss_only",
    # devices and speed
    "use_cpu", "local_rank", "ddp_", "fsdp", "fsdp_", "deepspeed", "parallelism_config", "accelerator_config",
    "torch_compile", "torch_compile_", "torch_empty_cache_steps", "activation_checkpointing",
    "activation_checkpointing_", "gradient_checkpointing", "gradient_checkpointing_", "checkpoint_", "use_cache",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "dataloader_in_order", "auto_find_batch_size",
    # limits
    "max_broken_share", "max_nonfinite_steps",
    # in the effective batch size
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
}  # fmt: skip
FREE_RUN_KEYS = {"num_devices", "checkpoint_video"}


@dataclasses.dataclass
class RunFolder:
    """The folder of a run.

    Args:
        path: `output_dir`.
        settings: Settings of the run as `run.json` contains them.
        data: Size and classes of the training data; empty before the run has started.
        is_complete: Whether the trained model is saved.
    """

    path: Path
    settings: dict[str, Any]
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_complete: bool = False

    @classmethod
    def open(cls, run: Any, args: UMTTrainingArguments) -> "RunFolder":
        """The folder of a new run, of one to resume, or of a complete one.

        Args:
            run: The keys of a recipe beside the training arguments, an instance of a run's dataclass.
            args: The training arguments.

        Raises:
            ValueError: the folder belongs to a run with other settings, or contains a model but no `run.json`, or
                `run.json` is damaged, or the run is complete and was to be pushed.
        """
        path = Path(args.output_dir)
        folder = cls(path, run_settings(run, args))
        file = path / FILE_NAME
        has_model = any((path / name).is_file() for name in WEIGHTS)
        content = read_run_file(file) if file.is_file() else None
        content, has_model = broadcast_object_list([content, has_model])  # as the main process sees the folder
        if content is None and has_model:
            raise ValueError(
                f"{path} contains a model, but no {FILE_NAME}, so it is not the folder of a run; give another "
                "--output-dir."
            )
        if content is not None:
            folder.check(content["settings"], folder.settings)
            folder.data, folder.is_complete = content["data"], content["complete"] and has_model
        if folder.is_complete and args.push_to_hub and not content["pushed"]:
            raise ValueError(f"The run in {path} is complete; upload it with `umt publish {path}`.")
        return folder

    def check(self, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """Compare what a run has saved with what is given; a key that only one of them has is not compared.

        Raises:
            ValueError: a value differs.
        """
        changed = [
            f"`{key}` was {abbreviated(saved[key])} and is {abbreviated(value)}"
            for key, value in given.items()
            if key in saved and saved[key] not in (value, portable(value, must_exist=False))
        ]
        if changed:
            advice = f" {KEEP_BATCH}" if any("`effective_batch_size`" in text for text in changed) else ""
            raise ValueError(
                f"{self.path} contains a run with other settings: {', '.join(changed)}. Give the same settings to "
                f"resume it, or another --output-dir; there, `--init-from {self.path}` starts from its trained model."
                f"{advice}"
            )

    def start(self, data: Mapping[str, Any]) -> None:
        """Write `run.json` before the first step.

        Raises:
            ValueError: the run is resumed with other data.
        """
        self.check(self.data, data)
        self.data = dict(data)
        self.write(complete=False)

    def finish(self, pushed: bool) -> None:
        """Mark the run as complete, after its model was saved, and `pushed` to the Hub or not."""
        self.is_complete = True
        self.write(complete=True, pushed=pushed)

    def write(self, **marks: bool) -> None:
        if not PartialState().is_main_process:
            return
        with atomic_write(self.path / FILE_NAME) as temporary:
            content = {"settings": self.settings, "data": self.data, **marks}
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_run_file(file: Path) -> dict[str, Any]:
    content = read_mapping(file)
    if content is None or not {"settings", "data", "complete"} <= content.keys():
        raise ValueError(
            f"{file} is damaged, so that the settings of the run are not known; restore it, or give another "
            "--output-dir."
        )
    return content


def run_settings(run: Any, args: UMTTrainingArguments) -> dict[str, Any]:
    """The settings that determine the result of a run, as `run.json` contains them."""
    keys = {key: value for key, value in dataclasses.asdict(run).items() if key not in FREE_RUN_KEYS}
    arguments = {key: value for key, value in args.to_dict().items() if not is_free(key)}
    settings = {**keys, **arguments, "effective_batch_size": args.effective_batch_size}
    if args.absolute_learning_rate:
        settings["learning_rate"] = args.learning_rate
    return json.loads(json.dumps({key: portable(value) for key, value in settings.items()}))


def is_free(key: str) -> bool:
    return key in FREE or any(key.startswith(prefix) for prefix in FREE if prefix.endswith("_"))


def portable(value: Any, must_exist: bool = True) -> Any:
    """A setting whose local paths, alone or in a list, are names with a hash of the absolute path: the same from any
    working directory and after the run's folder was moved, and not a path of this machine."""
    if isinstance(value, list):
        return [portable(element, must_exist) for element in value]
    if isinstance(value, str) and value and (os.path.exists(value) or not must_exist):
        path = os.path.abspath(value)
        return f"{os.path.basename(path)} ({hashlib.blake2b(path.encode(), digest_size=4).hexdigest()})"
    return value


def abbreviated(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
