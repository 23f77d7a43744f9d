"""A classification run from a recipe: data, classifier, head, trainer, resume (arXiv 2303.16058, section 4.2)."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import PreTrainedModel, set_seed
from transformers.trainer_utils import HubStrategy

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
    UMTConfig,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTModel,
    convert_umt_checkpoint,
)
from modeling_umt.labels_umt import k710_rows, load_labels
from modeling_umt.position_embeddings_umt import resize_learned_table
from processing_umt import UMTVideoProcessor
from processing_umt.augmentation_umt import augment_for_finetuning
from processing_umt.frame_sampling_umt import RULES_WITH_STRIDE, sample_training_clip

from ..cards.run_facts import RunFacts
from ..data.class_indices import class_names_of, normalize_name
from ..data.labelled_records import check_classes, check_labels, describe_classes, hold_out, placeholder_names
from ..data.video_dataset import VideoClipDataset
from ..data.video_records import load_video_records
from ..model_sources import OFFICIAL_ENDINGS, architecture_of, read_model_config
from ..pictures.run_page import Section
from ..trainers.argument_ranges import require_ranges
from ..trainers.finetuning import UMTFineTuningArguments, UMTFineTuningTrainer
from ..trainers.presets import FROZEN_ENCODER, apply_preset, preset_config
from .finetuning_page import evaluation_sections
from .initial_weights import load_initial_weights
from .motion_setting import with_motion_drop
from .recipes import check_config_fields, parse_recipe, require_keys
from .resume import run_to_end
from .run_clips import check_sampling, data_seed, describe_evaluation_data, evaluation_clips, training_crop
from .run_folder import RunFolder

# from which classification is fine-tuned
UMT_ENCODERS = (UMTModel, UMTForPreTraining, UMTForMaskedModeling, UMTForVideoClassification)
ENCODERS = (*UMT_ENCODERS, InternVideo2Model, InternVideo2ForPreTraining, InternVideo2ForVideoClassification)
# model type -> its classifier, and the prefixes of the weights that a start may lack
CLASSIFIERS = {
    "umt": (UMTForVideoClassification, ("classifier.", "umt.fc_norm.", "attention_pooling.", "frame_pooling.")),
    "internvideo2": (InternVideo2ForVideoClassification, ("classifier.", "fc_norm.")),
}


@dataclass
class FineTuningRun:
    """The keys of a classification recipe beside the training arguments.

    Args:
        task: `classification`.
        data: Labelled training videos: class folders, a list file, a table, a Hub dataset id (`load_video_records`).
        eval_data: Videos to choose the best checkpoint by; by default `eval_split` or `eval_share` of `data`.
        data_root: Folder that relative paths of the lists start from.
        train_split, eval_split: Splits, if `data` has splits.
        eval_share: Fraction of each class's videos that is held out for evaluation, if `data` has no splits. A class
            keeps at least one for training.
        labels: Label list that gives the classes and their order: `k400`, `k600`, `k700`, `k710` (the official order),
            `k400_alphabetical` and its siblings (sorted by name), `mitv1`, `ssv2`. By default the classes are those of
            the data.
        init_from: A saved UMT or InternVideo2 model, a Hub id, or an official file, whose encoder is the start. Rows
            of its head are kept if its classes include the run's, also under the names of a smaller Kinetics set for a
            Kinetics-710 head.
        preset: What is trained: `full`, `lora`, `attentive` or `linear`.
        lora_rank: Rank of LoRA's updates.
        merge_lora: Save the model with the updates merged in, instead of the adapter alone, which refers to the model
            it started from in `output_dir/base`.
        model: Fields of the configuration that differ from the checkpoint's, as a mapping. An official classifier of
            MVD, VideoMAE or EVEREST needs its `position_type`.
        motion_drop_ratio: Fraction of the tokens that the model drops by motion, in training and afterwards: 0.4 takes
            about half of the time. By default that of the checkpoint.
        sampling: Frame sampling of training clips, a rule of `sample_training_clip`: `sparse`, or `segments` for
            Something-Something; of MVD and EVEREST `dense`, or `uniform` and `segments` for Something-Something.
        eval_sampling: Frame sampling of evaluation and of the saved processor, by default `sampling`; of MVD and
            EVEREST `strided` beside `dense`.
        frame_stride: Distance between the frames of a dense or strided clip.
        flip: Mirror half of the training clips; false if classes differ by left and right.
        license: Licence of the trained model, for its card; an identifier of the Hub, such as `apache-2.0`.
    """

    task: Literal["classification"] = "classification"
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
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": (UMTConfig, InternVideo2Config)})
    motion_drop_ratio: float | None = None
    sampling: str = "sparse"
    eval_sampling: str | None = None
    frame_stride: int | None = None
    flip: bool = True
    license: str | None = None

    def __post_init__(self):
        require_ranges(self, {"lora_rank": "[1, inf)", "motion_drop_ratio": "[0, 1)", "frame_stride": "[1, inf)"})
        check_sampling(self.frame_stride, sampling=self.sampling, eval_sampling=self.eval_sampling)

    @property
    def is_evaluated(self) -> bool:
        return bool(self.eval_data or self.eval_split or self.eval_share)


def finetune_classification(recipe: Mapping[str, Any], overrides: Sequence[str]) -> UMTFineTuningTrainer:
    """Run a classification recipe to its end or resume it; see `tasks.finetune`.

    With the preset `lora` the adapter is saved to `output_dir`, and the model that it belongs to to `output_dir/base`.
    """
    run, args = parse_recipe(recipe, overrides, FineTuningRun, UMTFineTuningArguments)
    require_keys(run, "data", "init_from")
    if run.preset in FROZEN_ENCODER:
        args.layer_decay, args.checkpoint_blocks = 1.0, 0  # no layer is trained
    if run.merge_lora:
        args.hub_strategy = HubStrategy.END  # until then only adapters exist
    folder = RunFolder.open(run, args)
    set_seed(args.seed)
    train_records, eval_records, class_names = load_records(run, args)
    model = load_classifier(run, class_names)
    processor = load_processor(run, model.config)
    base = os.path.relpath(os.path.join(args.output_dir, "base"))  # the adapter's files state it
    if run.preset == "lora":
        # an adapter is useless without the model it was created for, head and classes included
        model.name_or_path = base
        if args.should_save and not folder.is_complete:
            model.save_pretrained(base)
    trainer = UMTFineTuningTrainer(
        model=apply_preset(model, run.preset, run.lora_rank),
        args=args,
        processing_class=processor,
        train_dataset=load_training_clips(run, args, train_records, model.config),
        eval_dataset=load_evaluation_clips(run, args, eval_records, processor),
        run_facts=run_facts(run),
    )

    def evaluated() -> list[Section]:
        return evaluation_sections(trainer, eval_records, class_names)

    def merge_adapter() -> None:
        trainer.model = trainer.model.merge_and_unload()
        if args.should_save:
            shutil.rmtree(base)

    return run_to_end(
        trainer,
        folder,
        f"umt classify VIDEO --model {args.output_dir}",
        class_names=class_names,
        evaluate=evaluated if eval_records is not None else None,
        before_saving=merge_adapter if run.preset == "lora" and run.merge_lora else None,
    )


def run_facts(run: FineTuningRun) -> RunFacts:
    """The facts of a run for its model card."""
    eval_data = None
    if run.is_evaluated:
        eval_data = describe_evaluation_data(run.eval_data or run.data, run.eval_split, run.eval_share)
    return RunFacts(
        data=(run.data,),
        eval_data=eval_data,
        starts=(run.init_from,),
        license=run.license,
        settings={
            "started from": run.init_from,
            "preset": run.preset,
            "LoRA rank": run.lora_rank if run.preset == "lora" else None,
            "frame sampling": run.sampling,
            "frame sampling of evaluation": run.eval_sampling,
            "frame stride": run.frame_stride,
            "horizontal flip": run.flip,
        },
    )


# --- data -----------------------------------------------------------------------------------------------------------


def load_records(run: FineTuningRun, args: UMTFineTuningArguments) -> tuple[Dataset, Dataset | None, list[str]]:
    """Training videos, evaluation videos or None, and the names of the classes, all checked."""
    class_names = None if run.labels is None else load_labels(run.labels)
    records = load_video_records(
        run.data, root=run.data_root, split=run.train_split, class_names=class_names, reads=()
    )
    class_names = check_classes(records, class_names)
    if args.should_save:
        print(*describe_classes(Counter(records["label"]), class_names), sep="\n", flush=True)
    if not run.is_evaluated:
        return records, None, class_names
    if run.eval_share:
        if run.eval_data is not None or run.eval_split is not None:
            raise ValueError("Give `eval_share`, or `eval_data` or `eval_split`, but not both.")
        return *hold_out(records, run.eval_share, data_seed(args)), class_names
    eval_records = load_video_records(
        run.eval_data or run.data, root=run.data_root, split=run.eval_split, class_names=class_names, reads=()
    )
    check_labels(eval_records, len(class_names), "evaluation")
    return records, eval_records, class_names


def load_training_clips(
    run: FineTuningRun, args: UMTFineTuningArguments, records: Dataset, config: UMTConfig
) -> VideoClipDataset:
    """Augmented clips, `views_per_video` of each video."""
    return VideoClipDataset(
        records,
        num_frames=config.num_frames,
        sample_frames=partial(sample_training_clip, sampling=run.sampling, frame_stride=run.frame_stride or 1),
        transform=partial(augment_for_finetuning, size=training_crop(config), flip=run.flip),
        seed=data_seed(args),
        num_views_per_video=args.views_per_video,
    )


def load_evaluation_clips(
    run: FineTuningRun, args: UMTFineTuningArguments, records: Dataset | None, processor: UMTVideoProcessor
) -> VideoClipDataset | None:
    """The centre view of each evaluation video, made by the processor; None without evaluation data."""
    if records is None:
        return None
    return evaluation_clips(records, processor.num_frames, processor, seed=data_seed(args))


def load_processor(run: FineTuningRun, config: UMTConfig) -> UMTVideoProcessor:
    """The processor that is saved with the model and makes the evaluation clips."""
    processor = UMTVideoProcessor.for_config(config)
    processor.sampling = run.eval_sampling or run.sampling
    if processor.sampling in RULES_WITH_STRIDE:
        processor.frame_stride = run.frame_stride
    return processor


# --- model ----------------------------------------------------------------------------------------------------------


def load_classifier(
    run: FineTuningRun, class_names: list[str]
) -> UMTForVideoClassification | InternVideo2ForVideoClassification:
    """The classifier of a run, in float32: the encoder of any UMT or InternVideo2 checkpoint, and its head if the
    classes match.

    Raises:
        ValueError: the checkpoint is not a video model of either, or `model` has fields of the other.
    """
    source = load_source(run.init_from, position_type=run.model.get("position_type"))
    check_config_fields("model", run.model, type(source.config))
    config = type(source.config).from_dict(
        source.config.to_dict(),
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
        **with_motion_drop(run.model, run.motion_drop_ratio) | preset_config(run.preset, source.config.model_type),
    )
    state = source.state_dict()
    rows = None
    if "classifier.weight" in state and getattr(config, "pooling", "") == getattr(source.config, "pooling", ""):
        rows = head_rows(source.config, class_names)
    for key in ("classifier.weight", "classifier.bias"):
        weight = state.pop(key, None)
        if rows is not None:
            state[key] = weight[rows].clone()
    for key in ("norm.weight", "norm.bias"):
        state.pop(key, None)  # of a `UMTModel`; a classifier has `fc_norm` instead
    for key in [key for key in state if key.endswith("embeddings.positions.position_embeddings")]:
        # learned for the clips of the checkpoint
        grids = source.config.token_grid, config.token_grid
        state[key] = resize_learned_table(state[key][0], *grids, True, config.single_frame)[None]
    model_class, new = CLASSIFIERS[config.model_type]
    return load_initial_weights(model_class, None, new, config=config, state_dict=state, dtype=torch.float32)


def load_source(
    name: str, kinds: Sequence[type[PreTrainedModel]] = ENCODERS, position_type: str | None = None
) -> PreTrainedModel:
    """The model that a run starts from, of one of several classes.

    Args:
        name: A folder, a Hub id or an official `.pth`.
        kinds: The classes.
        position_type: Position table of an official classifier of MVD, VideoMAE or EVEREST, whose file has none; see
            `convert_umt_checkpoint`.

    Raises:
        ValueError: it is not a video model of these classes.
    """
    classes = {kind.__name__: kind for kind in kinds}
    if name.endswith(OFFICIAL_ENDINGS):
        source = convert_umt_checkpoint(name, position_type=position_type)
        if isinstance(source, tuple(kinds)):
            return source
        raise ValueError(f"{name} contains a {type(source).__name__}, not a video encoder ({', '.join(classes)}).")
    config = read_model_config(name)
    model_type = config.get("model_type")
    encoders = {kind.config_class.model_type: kind.__name__ for kind in reversed(kinds)}
    architecture = architecture_of(config) or encoders.get(model_type)
    if architecture not in classes or classes[architecture].config_class.model_type != model_type:
        raise ValueError(
            f"{name} is a {architecture} of type {model_type!r}; fine-tuning starts from a saved video model: "
            f"{', '.join(classes)}."
        )
    return load_initial_weights(classes[architecture], name)


def head_rows(source: UMTConfig, class_names: list[str]) -> list[int] | None:
    """Rows of a checkpoint's head that initialise the head of a run; None if the classes differ.

    Classes are matched by name, in any order. Those of a Kinetics-710 head are also matched by the names that the
    smaller Kinetics sets give them. If the checkpoint or the data has no names, equal numbers of classes are treated
    as the same classes, and 710 classes as the official Kinetics-710 head, as in the official code.
    """
    source_names, unnamed = class_names_of(source), placeholder_names(source.num_labels)
    rows_of_source = {normalize_name(name): row for row, name in enumerate(source_names)}
    if len(class_names) == source.num_labels and unnamed in (source_names, class_names):
        return list(range(source.num_labels))
    wanted = [normalize_name(name) for name in class_names]
    if source_names != unnamed and set(wanted) <= rows_of_source.keys():
        return [rows_of_source[name] for name in wanted]
    if source.num_labels == 710 and set(wanted) <= k710_rows().keys():
        rows = [k710_rows()[name] for name in wanted]
        if source_names == unnamed:
            return rows
        official_names = load_labels("k710")
        if rows_of_source.keys() == set(official_names):
            return [rows_of_source[official_names[row]] for row in rows]
    return None
