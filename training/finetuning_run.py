"""A whole fine-tuning run from a recipe: data, classifier, head, trainer, resume (arXiv 2303.16058, section 4.2)."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from transformers import AutoConfig, set_seed
from transformers.trainer_utils import get_last_checkpoint

import modeling_umt
from modeling_umt import UMTConfig, UMTForVideoClassification, convert_umt_checkpoint
from modeling_umt.labels_umt import k710_rows, load_labels
from processing_umt import UMTVideoProcessor
from processing_umt.augmentation_umt import augment_for_finetuning
from processing_umt.frame_sampling_umt import sample_clips, sample_training_clip

from .finetuning import UMTFineTuningArguments, UMTFineTuningTrainer
from .inference import processor_of_config
from .presets import apply_preset, preset_config
from .recipes import parse_recipe, read_recipe
from .video_dataset import VideoClipDataset
from .video_records import load_video_records


@dataclass
class FineTuningRun:
    """What a fine-tuning recipe says beside the training arguments.

    Args:
        data: Labelled training videos: class folders, a list file, a table, a Hub dataset id (`load_video_records`).
        eval_data: Videos to choose the best checkpoint by; by default `eval_split` of `data`.
        data_root: Folder that relative paths of the lists start from.
        train_split, eval_split: Splits, where `data` has some.
        labels: Label list that gives the classes and their order: `k400`, `k600`, `k700`, `k710`, `mitv1`, `ssv2`. By
            default the classes are those of the data.
        init_from: Where the encoder comes from: a saved UMT model, a Hub id, or an official `.pth`. A head is kept
            row by row where its classes are the run's, or where a Kinetics-710 head starts a smaller Kinetics one.
        preset: What is trained: `full`, `lora`, `attentive` or `linear`.
        lora_rank: Rank of LoRA's updates.
        merge_lora: Save the whole model with the updates merged in, instead of the adapter alone, which refers to the
            model it started from in `output_dir/base`.
        model: Fields of `UMTConfig` that differ from the checkpoint's, as a mapping (JSON on the command line).
        sampling: Frames of a clip: `sparse`, or `segments` for Something-Something.
        flip: Mirror training clips; false where left and right make the class.
    """

    data: str | None = None
    eval_data: str | None = None
    data_root: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    labels: str | None = None
    init_from: str | None = None
    preset: str = "full"
    lora_rank: int = 16
    merge_lora: bool = False
    model: str = "{}"
    sampling: str = "sparse"
    flip: bool = True


def finetune(recipe: str, overrides: list[str]) -> UMTFineTuningTrainer:
    """Run a fine-tuning recipe to its end, from the last checkpoint in `output_dir` if there is one.

    The trained model or adapter, its code and its processor end in `output_dir`.

    Raises:
        ValueError: if a key is unknown, data or a start are missing, a label is none of the classes, or a class has no
            training clip.
    """
    run, args = parse_recipe(read_recipe(recipe), overrides, FineTuningRun, UMTFineTuningArguments)
    for key in ("data", "init_from"):
        if getattr(run, key) is None:
            raise ValueError(f"No `{key}` given; say --{key} ...")
    set_seed(args.seed)
    class_names = None if run.labels is None else load_labels(run.labels)
    records = load_video_records(run.data, root=run.data_root, split=run.train_split, class_names=class_names)
    class_names = check_classes(records, class_names)
    model = load_classifier(run, class_names)
    if run.preset in ("attentive", "linear"):
        args.layer_decay = 1.0  # no layer is trained
    train_dataset, eval_dataset = load_clips(run, records, class_names, model.config, args)
    if run.preset == "lora":
        # An adapter is nothing without the model it was made for, head and classes included.
        base = os.path.abspath(os.path.join(args.output_dir, "base"))
        model.save_pretrained(base)
        model.name_or_path = base
    trainer = UMTFineTuningTrainer(
        model=apply_preset(model, run.preset, run.lora_rank),
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor_of_config(model.config),
    )
    checkpoint = args.resume_from_checkpoint
    if checkpoint is None and os.path.isdir(args.output_dir):
        checkpoint = get_last_checkpoint(args.output_dir)
    if checkpoint is not None:
        print(f"resuming from {checkpoint}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    if run.preset == "lora" and run.merge_lora:
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model()
    trainer.save_state()
    return trainer


# --- data -----------------------------------------------------------------------------------------------------------


def check_classes(records: Dataset, class_names: list[str] | None) -> list[str]:
    """The classes of a run, in order; a ValueError if a label is none of them, or one of them has no clip."""
    if "label" not in records.column_names:
        raise ValueError("The data have no labels; give class folders, a list with labels or a table with a `label`.")
    feature, labels = records.features["label"], Counter(records["label"])
    if class_names is None and isinstance(feature, ClassLabel):
        class_names = feature.names
    elif class_names is None:
        class_names = [f"LABEL_{index}" for index in range(max(labels) + 1)]
    wrong = sorted(label for label in labels if not 0 <= label < len(class_names))
    if wrong:
        raise ValueError(f"Labels {wrong[:10]} are no classes; there are {len(class_names)}, from 0.")
    missing = [name for index, name in enumerate(class_names) if index not in labels]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(class_names)} classes have no training clip: {', '.join(missing[:10])}. Add "
            "clips, or leave these classes out."
        )
    return list(class_names)


def load_clips(
    run: FineTuningRun, records: Dataset, class_names: list[str], config: UMTConfig, args: UMTFineTuningArguments
) -> tuple[VideoClipDataset, VideoClipDataset | None]:
    """Augmented training clips, and single centre views of the evaluation videos if there are any."""
    if not isinstance(config.image_size, int):
        raise ValueError(f"Training crops are square, but `image_size` is {config.image_size}; give one number.")
    seed = args.seed if args.data_seed is None else args.data_seed
    train_dataset = VideoClipDataset(
        records,
        num_frames=config.num_frames,
        sample_frames=partial(sample_training_clip, sampling=run.sampling),
        transform=partial(augment_for_finetuning, size=config.image_size, flip=run.flip),
        seed=seed,
        num_views_per_video=args.views_per_video,
    )
    if run.eval_data is None and run.eval_split is None:
        return train_dataset, None
    eval_records = load_video_records(
        run.eval_data or run.data, root=run.data_root, split=run.eval_split, class_names=class_names
    )
    return train_dataset, VideoClipDataset(
        eval_records,
        num_frames=config.num_frames,
        sample_frames=partial(validation_frames, sampling=run.sampling),
        transform=partial(validation_view, processor=processor_of_config(config)),
        seed=seed,
    )


def validation_frames(num_video_frames: int, num_frames: int, generator: np.random.Generator, sampling: str):
    """The frames of a single test view; nothing is drawn."""
    return sample_clips(num_video_frames, num_frames, sampling=sampling)[0]


def validation_view(frames: np.ndarray, generator: np.random.Generator, processor: UMTVideoProcessor) -> torch.Tensor:
    """The centre crop of a clip (T, C, H, W), normalised; nothing is drawn."""
    return processor(frames, return_tensors="pt")["pixel_values_videos"][0]


# --- model ----------------------------------------------------------------------------------------------------------


def load_classifier(run: FineTuningRun, class_names: list[str]) -> UMTForVideoClassification:
    """The classifier of a run: the encoder of any UMT checkpoint, and its head where the classes allow."""
    if run.init_from.endswith(".pth"):
        source = convert_umt_checkpoint(run.init_from)
    else:
        architecture = (AutoConfig.from_pretrained(run.init_from).architectures or ["UMTModel"])[0]
        source = getattr(modeling_umt, architecture).from_pretrained(run.init_from, dtype="float32")
    id2label = dict(enumerate(class_names))
    config = UMTConfig.from_dict(
        source.config.to_dict(),
        id2label=id2label,
        label2id={name: index for index, name in id2label.items()},
        **preset_config(run.preset),
        **json.loads(run.model),
    )
    state = source.state_dict()
    rows = head_rows(source.config, class_names, run.labels) if "classifier.weight" in state else None
    for key in ("classifier.weight", "classifier.bias"):
        weight = state.pop(key, None)
        if rows is not None:
            state[key] = weight[rows].clone()
    return UMTForVideoClassification.from_pretrained(None, config=config, state_dict=state)


def head_rows(source: UMTConfig, class_names: list[str], labels: str | None) -> list[int] | None:
    """Rows of a checkpoint's head that start the head of a run (method, 7); None if its classes are others."""
    if all(name in source.label2id for name in class_names):
        return [source.label2id[name] for name in class_names]
    if source.num_labels == 710 and labels in ("k400", "k600", "k700"):
        return k710_rows(labels)
    return None
