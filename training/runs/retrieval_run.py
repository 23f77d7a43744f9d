"""A whole fine-tuning for retrieval from a recipe: captioned videos, model, trainer, recall after every epoch, resume
(arXiv 2303.16058, section 4.3).

The model is stage 2's with contrast and matching alone: nothing is hidden and no teacher is asked.

Unusual: after an epoch the model is scored as `umt evaluate --task retrieval` scores it, and the best checkpoint is
chosen by the re-ranked recall, as published. Processes share that work. Pairs of one video belong together by its
whole path, where the authors compare base names, which two folders may share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoProcessor, set_seed
from transformers.trainer_utils import IntervalStrategy

from modeling_umt import (
    UMTConfig,
    UMTForVideoTextPreTraining,
    UMTVideoTextConfig,
    UMTVideoTextModel,
    convert_umt_checkpoint,
)
from processing_umt import UMTProcessor
from processing_umt.augmentation_umt import augment_for_video_text
from processing_umt.frame_sampling_umt import sample_training_clip

from ..data.captioned_records import CaptionedRecords
from ..data.video_dataset import VideoClipDataset
from ..data.video_records import load_video_records
from ..evaluation.retrieval import RetrievalSet, retrieval_set
from ..trainers.activation_checkpointing import checkpoint_first_blocks
from ..trainers.retrieval import UMTRetrievalTrainer
from ..trainers.video_text import UMTVideoTextArguments
from .recipes import config_fields, for_this_machine, parse_recipe, read_recipe
from .resume import save_with_card, train_or_resume
from .run_clips import data_seed, training_crop


@dataclass
class RetrievalRun:
    """What a retrieval recipe says beside the training arguments.

    Args:
        task: `retrieval`; tells `umt finetune` which recipe it is.
        data: Captioned training videos, a text or a list of them each: the official annotation files, a table, a Hub
            data set.
        eval_data: Videos to choose the best checkpoint by; none by default.
        data_root: Folder that relative paths of both start from; by default each list's own.
        train_split, eval_split: Splits, where `data` has some.
        init_from: A stage-2 or retrieval model: a folder, a Hub id, or an official `.pth`.
        text: Hub id or folder of a BERT, whose vocabulary is the model's; by default the one of `init_from`.
        num_frames: Frames of a clip.
        max_text_length: Tokens of a text.
        paragraph: A video's captions, joined by spaces, are one text; else each is a text of its own.
        several_videos: Videos of equal captions all belong to that text.
        trim_seconds: Frames come from the first seconds only.
        flip: Mirror half of the training clips, as published; false where texts tell left from right.
        num_reranked: Candidates of a query that the cross-encoder puts in order in evaluation.
        checkpoint_video: Recompute the video encoder's activations in the backward pass.
        vision: Fields of `UMTConfig` that differ from the checkpoint's, as a mapping (JSON on the command line).
        model: Fields of `UMTVideoTextConfig`, likewise.
        license: Licence of the trained model, for its card; an identifier of the Hub, such as `apache-2.0`.
    """

    task: str = "retrieval"
    data: str | None = None
    eval_data: str | None = None
    data_root: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    init_from: str | None = None
    text: str | None = None
    num_frames: int = 12
    max_text_length: int = 32
    paragraph: bool = False
    several_videos: bool = False
    trim_seconds: float | None = None
    flip: bool = True
    num_reranked: int = 128
    checkpoint_video: bool = False
    vision: str = "{}"
    model: str = "{}"
    license: str | None = None

    # what the card of a stage-2 run asks for as well
    @property
    def video_data(self) -> list[str]:
        return [self.data]

    @property
    def image_data(self) -> list[str]:
        return []

    @property
    def positives(self) -> str:
        """Pairs that belong together, as `CaptionedRecords` names them."""
        return "caption" if self.several_videos else "video"


def finetune_retrieval(recipe: str, overrides: list[str]) -> UMTRetrievalTrainer:
    """Run a retrieval recipe to its end, from the last checkpoint in `output_dir` if there is one.

    The trained model, its code, its processor and its card end in `output_dir`. Without an accelerator the arithmetic
    is float32, whatever the recipe says.

    Raises:
        ValueError: before the first step, if a key is unknown, data or a start are missing, or the parts do not fit.
    """
    run, args = parse_recipe(for_this_machine(read_recipe(recipe)), overrides, RetrievalRun, UMTVideoTextArguments)
    for key in ("data", "init_from"):
        if not getattr(run, key):
            raise ValueError(f"No `{key}` given; say --{key} ...")
    set_seed(args.seed)
    model = load_retrieval_model(run)
    image_size = training_crop(model.config.vision_config)
    if run.checkpoint_video:
        checkpoint_first_blocks(model.video_text.vision_model, model.config.vision_config.num_hidden_layers)
    eval_set = load_evaluation_set(run)
    if eval_set is None:  # the recipes choose the best epoch
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    trainer = UMTRetrievalTrainer(
        model=model,
        args=args,
        processing_class=load_retrieval_processor(run, image_size),
        train_dataset=load_training_pairs(run, data_seed(args), image_size),
        eval_dataset=eval_set,
        num_reranked=run.num_reranked,
        trim_seconds=run.trim_seconds,
    )
    trainer.run = run
    train_or_resume(trainer)
    save_with_card(trainer)
    return trainer


def load_training_pairs(run: RetrievalRun, seed: int, image_size: int) -> VideoClipDataset:
    """Augmented clips, a pair for each text of a video."""
    records = load_video_records(run.data, root=run.data_root, split=run.train_split)
    return VideoClipDataset(
        CaptionedRecords([join_captions(records) if run.paragraph else records], run.positives),
        num_frames=run.num_frames,
        sample_frames=partial(sample_training_clip, sampling="middle"),
        transform=partial(augment_for_video_text, size=image_size, flip=run.flip),
        trim_seconds=run.trim_seconds,
        seed=seed,
    )


def join_captions(records: Dataset) -> Dataset:
    """A table whose lists of captions became paragraphs."""
    captions = [caption if isinstance(caption, str) else " ".join(caption) for caption in records["caption"]]
    return records.remove_columns("caption").add_column("caption", captions)


def load_evaluation_set(run: RetrievalRun) -> RetrievalSet | None:
    """Videos and texts to score on; None if there are none."""
    if not run.eval_data and run.eval_split is None:
        return None
    records = load_video_records(run.eval_data or run.data, root=run.data_root, split=run.eval_split)
    return retrieval_set(records, run.paragraph, run.several_videos)


def load_retrieval_processor(run: RetrievalRun, image_size: int) -> UMTProcessor:
    """The processor of the checkpoint, or of a BERT's vocabulary, for this run's clips and texts.

    Raises:
        ValueError: an official file without `text`: it has no vocabulary.
    """
    if run.text is not None:
        return UMTProcessor.from_bert(
            run.text, num_frames=run.num_frames, image_size=image_size, max_text_length=run.max_text_length
        )
    if run.init_from.endswith(".pth"):
        raise ValueError(f"{run.init_from} has no vocabulary; name the BERT that it was made with: --text ...")
    processor = AutoProcessor.from_pretrained(run.init_from)
    processor.video_processor.num_frames = run.num_frames
    processor.max_text_length = run.max_text_length
    return processor


def load_retrieval_model(run: RetrievalRun) -> UMTForVideoTextPreTraining:
    """The stage-2 model of a run, with contrast and matching alone, in float32.

    Raises:
        ValueError: if `vision` or `model` names what is no field, or the checkpoint is no stage-2 or retrieval model.
    """
    fields = {"mlm_weight": 0.0, "uta_weight": 0.0} | config_fields(run, UMTVideoTextConfig)
    vision = {"num_frames": run.num_frames} | config_fields(run, UMTConfig, "vision")
    if run.init_from.endswith(".pth"):
        start = convert_umt_checkpoint(run.init_from)
    else:
        config = AutoConfig.from_pretrained(run.init_from)
        if config.model_type != UMTVideoTextConfig.model_type:
            raise ValueError(
                f"{run.init_from} is a {config.model_type} model; retrieval is fine-tuned from a umt_video_text model."
            )
        if "UMTForVideoQuestionAnswering" in (config.architectures or ()):
            raise ValueError(
                f"{run.init_from} holds a UMTForVideoQuestionAnswering, which lacks the projections and the "
                "temperature of a stage-2 or retrieval model."
            )
        start = UMTVideoTextModel.from_pretrained(run.init_from, dtype=torch.float32)
    if isinstance(start, UMTForVideoTextPreTraining):
        start = start.video_text
    if not isinstance(start, UMTVideoTextModel):
        raise ValueError(f"{run.init_from} holds a {type(start).__name__}, not a stage-2 or retrieval model.")
    config = UMTVideoTextConfig.from_dict(changed(start.config.to_dict(), fields | {"vision_config": vision}))
    model = UMTForVideoTextPreTraining(config)
    model.video_text.load_state_dict(start.state_dict())
    return model


def changed(settings: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes`, mappings field by field."""
    nested = {key: changed(settings[key], value) for key, value in changes.items() if isinstance(value, Mapping)}
    return settings | dict(changes) | nested
