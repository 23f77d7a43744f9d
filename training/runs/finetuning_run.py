"""A whole fine-tuning run from a recipe: data, classifier, head, trainer, resume (arXiv 2303.16058, section 4.2)."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, IterableDataset
from transformers import AutoConfig, set_seed
from transformers.trainer_utils import HubStrategy

from modeling_umt import (
    UMTConfig,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTModel,
    convert_umt_checkpoint,
)
from modeling_umt.labels_umt import k710_rows, load_labels
from modeling_umt.modeling_umt import UMTPreTrainedModel
from processing_umt import UMTVideoProcessor
from processing_umt.augmentation_umt import augment_for_finetuning
from processing_umt.frame_sampling_umt import sample_training_clip

from ..data.video_dataset import VideoClipDataset
from ..data.video_records import load_video_records
from ..trainers.finetuning import UMTFineTuningArguments, UMTFineTuningTrainer
from ..trainers.presets import FROZEN_ENCODER, apply_preset, preset_config
from .recipes import config_fields, for_this_machine, parse_recipe, read_recipe
from .resume import save_with_card, train_or_resume
from .run_clips import data_seed, evaluation_clips, training_crop


@dataclass
class FineTuningRun:
    """What a fine-tuning recipe says beside the training arguments.

    Args:
        data: Labelled training videos: class folders, a list file, a table, a Hub dataset id (`load_video_records`).
        eval_data: Videos to choose the best checkpoint by; by default `eval_split` or `eval_share` of `data`.
        data_root: Folder that relative paths of the lists start from.
        train_split, eval_split: Splits, where `data` has some.
        eval_share: Share of each class's videos that is held out for evaluation, where `data` has no splits. A class
            keeps at least one for training.
        labels: Label list that gives the classes and their order: `k400`, `k600`, `k700`, `k710` (the official order),
            `k400_alphabetical` and its siblings (sorted by name), `mitv1`, `ssv2`. By default the classes are those of
            the data.
        init_from: Where the encoder comes from: a saved UMT model, a Hub id, or an official `.pth`. A head is kept
            row by row where its classes are the run's, or where a Kinetics-710 head starts a smaller Kinetics one.
        preset: What is trained: `full`, `lora`, `attentive` or `linear`.
        lora_rank: Rank of LoRA's updates.
        merge_lora: Save the whole model with the updates merged in, instead of the adapter alone, which refers to the
            model it started from in `output_dir/base`.
        model: Fields of `UMTConfig` that differ from the checkpoint's, as a mapping (JSON on the command line).
        sampling: Frames of a clip: `sparse`, or `segments` for Something-Something.
        flip: Mirror training clips; false where left and right make the class.
        license: Licence of the trained model, for its card; an identifier of the Hub, such as `apache-2.0`.
    """

    data: str | None = None
    eval_data: str | None = None
    data_root: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    eval_share: float = 0.0
    labels: str | None = None
    init_from: str | None = None
    preset: str = "full"
    lora_rank: int = 16
    merge_lora: bool = False
    model: str = "{}"
    sampling: str = "sparse"
    flip: bool = True
    license: str | None = None


def finetune(recipe: str, overrides: list[str]) -> UMTFineTuningTrainer:
    """Run a fine-tuning recipe to its end, from the last checkpoint in `output_dir` if there is one.

    The trained model or adapter, its code, its processor and its card end in `output_dir`. Without an accelerator the
    arithmetic is float32, whatever the recipe says.

    Raises:
        ValueError: before the first step, if a key is unknown, data or a start are missing, a label is none of the
            classes, or a class has no training clip.
    """
    settings = for_this_machine(read_recipe(recipe))
    run, args = parse_recipe(settings, overrides, FineTuningRun, UMTFineTuningArguments)
    for key in ("data", "init_from"):
        if getattr(run, key) is None:
            raise ValueError(f"No `{key}` given; say --{key} ...")
    if run.preset in FROZEN_ENCODER:
        args.layer_decay, args.checkpoint_blocks = 1.0, 0  # no layer is trained
    if run.merge_lora:
        args.hub_strategy = HubStrategy.END  # before it there are only adapters
    train_records, eval_records, class_names = load_records(run, args)
    set_seed(args.seed)  # of a fresh head
    model = load_classifier(run, class_names)
    processor = UMTVideoProcessor.for_config(model.config)
    processor.sampling = run.sampling
    train_dataset, eval_dataset = make_datasets(run, args, train_records, eval_records, model.config, processor)
    base = os.path.abspath(os.path.join(args.output_dir, "base"))
    if run.preset == "lora":
        # An adapter is nothing without the model it was made for, head and classes included.
        model.name_or_path = base
        if args.should_save:
            model.save_pretrained(base)
    trainer = UMTFineTuningTrainer(
        model=apply_preset(model, run.preset, run.lora_rank),
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
    )
    trainer.run = run
    train_or_resume(trainer)
    if run.preset == "lora" and run.merge_lora:
        trainer.model = trainer.model.merge_and_unload()
        if args.should_save:
            shutil.rmtree(base)
    if args.should_save:
        # What another run left: a model beside an adapter is taken for the model that the adapter belongs to.
        for name in ("config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"):
            Path(args.output_dir, name).unlink(missing_ok=True)
    save_with_card(trainer)
    return trainer


# --- data -----------------------------------------------------------------------------------------------------------


def load_records(run: FineTuningRun, args: UMTFineTuningArguments) -> tuple[Dataset, Dataset | None, list[str]]:
    """Training videos, evaluation videos if there are any, and the classes, all checked."""
    class_names = None if run.labels is None else load_labels(run.labels)
    records = load_video_records(run.data, root=run.data_root, split=run.train_split, class_names=class_names)
    class_names = check_classes(records, class_names)
    if run.eval_share:
        if run.eval_data is not None or run.eval_split is not None:
            raise ValueError("Give `eval_share`, or `eval_data` or `eval_split`, but not both.")
        return *hold_out(records, run.eval_share, data_seed(args)), class_names
    if run.eval_data is None and run.eval_split is None:
        return records, None, class_names
    eval_records = load_video_records(
        run.eval_data or run.data, root=run.data_root, split=run.eval_split, class_names=class_names
    )
    check_labels(eval_records, len(class_names), "evaluation")
    return records, eval_records, class_names


def check_labels(records: Dataset | IterableDataset, num_classes: int | None, purpose: str) -> Counter[int]:
    """How often each label occurs; a ValueError if the videos are no table, or one has no label or none of a class."""
    if not isinstance(records, Dataset):
        raise ValueError(
            f"The {purpose} videos are a stream, but their labels are checked before the first step: unpack tar "
            "shards, or give a folder, a list file or a data set that is not streamed."
        )
    if "label" not in records.column_names:
        raise ValueError(
            f"The {purpose} videos have no labels; give class folders, a list with labels or a table with a `label`."
        )
    labels = Counter(records["label"])
    missing = sum(count for label, count in labels.items() if not isinstance(label, int))
    if missing:
        raise ValueError(f"{missing} of {len(records)} {purpose} videos have no label, or one that is no integer.")
    limit = len(records) if num_classes is None else num_classes  # every class has a clip
    wrong = sorted(label for label in labels if not 0 <= label < limit)
    if wrong:
        raise ValueError(f"Labels {wrong[:10]} of the {purpose} videos are no classes; there are {limit}, from 0.")
    return labels


def check_classes(records: Dataset, class_names: list[str] | None) -> list[str]:
    """The classes of a run, in order; a ValueError if a label is none of them, or one of them has no clip."""
    if class_names is None and isinstance((records.features or {}).get("label"), ClassLabel):
        class_names = records.features["label"].names
    labels = check_labels(records, class_names and len(class_names), "training")
    if class_names is None:
        class_names = placeholder_names(max(labels) + 1)
    missing = [name for index, name in enumerate(class_names) if index not in labels]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(class_names)} classes have no training clip: {', '.join(missing[:10])}. Add "
            "clips, or leave these classes out."
        )
    return list(class_names)


def placeholder_names(num_classes: int) -> list[str]:
    """What Transformers calls classes without names."""
    return [f"LABEL_{index}" for index in range(num_classes)]


def hold_out(records: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training and evaluation videos: of each class a share, drawn by `seed`, rounded, and never the last one."""
    if not 0 < share < 1:
        raise ValueError(f"`eval_share` must be between 0 and 1, but is {share}.")
    generator = np.random.default_rng(seed)
    labels = np.array(records["label"])
    held_out = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out += generator.permutation(rows)[: min(round(share * len(rows)), len(rows) - 1)].tolist()
    if not held_out:
        raise ValueError(
            f"`eval_share` {share} of the largest class's {max(np.bincount(labels))} videos is not one; raise it."
        )
    return records.select(np.setdiff1d(np.arange(len(records)), held_out)), records.select(sorted(held_out))


def make_datasets(
    run: FineTuningRun,
    args: UMTFineTuningArguments,
    train_records: Dataset,
    eval_records: Dataset | None,
    config: UMTConfig,
    processor: UMTVideoProcessor,
) -> tuple[VideoClipDataset, VideoClipDataset | None]:
    """Augmented training clips, and single centre views of the evaluation videos if there are any."""
    train_dataset = VideoClipDataset(
        train_records,
        num_frames=config.num_frames,
        sample_frames=partial(sample_training_clip, sampling=run.sampling),
        transform=partial(augment_for_finetuning, size=training_crop(config), flip=run.flip),
        seed=data_seed(args),
        num_views_per_video=args.views_per_video,
    )
    if eval_records is None:
        return train_dataset, None
    return train_dataset, evaluation_clips(
        eval_records, config.num_frames, processor, run.sampling, seed=data_seed(args)
    )


# --- model ----------------------------------------------------------------------------------------------------------


def load_classifier(run: FineTuningRun, class_names: list[str]) -> UMTForVideoClassification:
    """The classifier of a run: the encoder of any UMT checkpoint, in float32, and its head where the classes allow.

    Raises:
        ValueError: if the checkpoint holds no UMT video encoder of its own, or `model` is no mapping from fields of
            `UMTConfig`.
    """
    fields = config_fields(run, UMTConfig)
    source = load_source(run.init_from)
    config = UMTConfig.from_dict(
        source.config.to_dict(),
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
        **fields | preset_config(run.preset),
    )
    state = source.state_dict()
    rows = None
    if "classifier.weight" in state and config.pooling == source.config.pooling:
        rows = head_rows(source.config, class_names)
    for key in ("classifier.weight", "classifier.bias"):
        weight = state.pop(key, None)
        if rows is not None:
            state[key] = weight[rows].clone()
    return UMTForVideoClassification.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)


def load_source(name: str) -> UMTPreTrainedModel:
    """The model that a run starts from."""
    if name.endswith(".pth"):
        source = convert_umt_checkpoint(name)
        if isinstance(source, UMTPreTrainedModel):
            return source
        raise ValueError(f"{name} holds a {type(source).__name__}, not a UMT video encoder.")
    config = AutoConfig.from_pretrained(name)
    architecture = (config.architectures or ["UMTModel"])[0]
    classes = {kind.__name__: kind for kind in (UMTModel, UMTForPreTraining, UMTForVideoClassification)}
    if config.model_type != "umt" or architecture not in classes:
        raise ValueError(
            f"{name} is a {architecture} of type {config.model_type!r}; fine-tuning starts from a saved UMT video "
            f"model: {', '.join(classes)}."
        )
    return classes[architecture].from_pretrained(name)


def head_rows(source: UMTConfig, class_names: list[str]) -> list[int] | None:
    """Rows of a checkpoint's head that start the head of a run; None if its classes are different ones.

    Classes are matched by name, whatever the order of the data, and a Kinetics-710 head also by the names that the
    smaller Kinetics sets give to its classes. Where the checkpoint or the data has no names, equal numbers of classes
    are taken as the same classes, and 710 classes as the official Kinetics-710 head, as in the official code.
    """
    source_names = [source.id2label[index] for index in range(source.num_labels)]
    unnamed = placeholder_names(source.num_labels)
    if len(class_names) == source.num_labels and unnamed in (source_names, class_names):
        return list(range(source.num_labels))
    if source_names != unnamed and set(class_names) <= set(source_names):
        return [source.label2id[name] for name in class_names]
    if source.num_labels == 710 and set(class_names) <= k710_rows().keys():
        rows = [k710_rows()[name] for name in class_names]
        if source_names == unnamed:
            return rows
        official_names = load_labels("k710")
        if set(source_names) == set(official_names):
            return [source.label2id[official_names[row]] for row in rows]
    return None
