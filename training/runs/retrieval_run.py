"""A retrieval run from a recipe: model, captioned videos, trainer, resume (arXiv 2303.16058, section 4.3).

The model is stage 2's with contrast and matching only: tokens are not masked, and a teacher is not used. After every
epoch it is evaluated as by `umt evaluate --task retrieval`, sharded across processes, and the best checkpoint is
chosen by the re-ranked recall, as published.

Unusual: pairs of one video are positives of each other by the path of the video; the authors compare base names, which
two folders may share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from datasets import Dataset
from transformers import AutoProcessor, set_seed
from transformers.trainer_utils import IntervalStrategy

from modeling_umt import (
    UMTConfig,
    UMTForVideoTextPreTraining,
    UMTVideoTextConfig,
)
from processing_umt import UMTProcessor
from processing_umt.augmentation_umt import augment_for_video_text
from processing_umt.frame_sampling_umt import sample_training_clip

from ..cards.run_facts import RunFacts
from ..data.captioned_records import CaptionedRecords, check_captions, join_paragraphs
from ..data.text_columns import note_texts
from ..data.video_dataset import VideoClipDataset
from ..data.video_records import load_video_records
from ..evaluation.retrieval import RetrievalSet, retrieval_set
from ..trainers.activation_checkpointing import checkpoint_first_blocks
from ..trainers.argument_ranges import require_ranges
from ..trainers.retrieval import UMTRetrievalTrainer
from ..trainers.video_text import UMTVideoTextArguments
from .motion_setting import with_motion_drop
from .recipes import parse_recipe, require_keys
from .resume import run_to_end
from .run_clips import data_seed, describe_evaluation_data, training_crop
from .run_folder import RunFolder
from .video_text_start import read_video_text_start, record_run_vocabulary, require_bert


@dataclass
class RetrievalRun:
    """The keys of a retrieval recipe beside the training arguments.

    Args:
        task: `retrieval`.
        data: Captioned training videos, with a text or a list of texts each: the official annotation files, a table, a
            Hub data set.
        eval_data: Videos to choose the best checkpoint by; by default `eval_split` of `data`, if it is given.
        data_root: Folder that relative paths of the lists start from.
        train_split, eval_split: Splits, if `data` has splits.
        init_from: A stage-2 or retrieval model: a folder, a Hub id, or an official `.pth`.
        text: Hub id or folder of the BERT whose vocabulary the model has; by default that of `init_from`'s processor,
            which an official `.pth` does not have.
        num_frames: Frames of a clip.
        max_text_length: Tokens of a text.
        paragraph: Join all captions of a video, of one row or of several, with spaces to one text, instead of a text
            for each caption.
        several_videos: Videos with the same caption are all positives of that text.
        trim_seconds: Sample frames from the first seconds only.
        flip: Mirror half of the training clips, as published; false if texts distinguish left from right.
        num_reranked: Candidates per query that the cross-encoder re-ranks in evaluation.
        checkpoint_video: Recompute the video encoder's activations in the backward pass.
        vision: Fields of `UMTConfig` that differ from the checkpoint's, as a mapping.
        model: Fields of `UMTVideoTextConfig`, likewise.
        motion_drop_ratio: Fraction of the tokens that the video encoder drops by motion, in training and afterwards.
            By default that of the checkpoint.
        license: Licence of the trained model, for its card; an identifier of the Hub, such as `apache-2.0`.
    """

    task: Literal["retrieval"] = "retrieval"
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
    vision: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTConfig})
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTVideoTextConfig})
    motion_drop_ratio: float | None = None
    license: str | None = None

    def __post_init__(self):
        require_ranges(
            self,
            {
                "num_frames": "[1, inf)",
                "max_text_length": "[2, inf)",
                "trim_seconds": "(0, inf)",
                "motion_drop_ratio": "[0, 1)",
                "num_reranked": "[0, inf)",
            },
        )

    @property
    def is_evaluated(self) -> bool:
        return bool(self.eval_data or self.eval_split)

    @property
    def positives(self) -> str:
        """Which pairs are positives of each other, as `CaptionedRecords` takes it."""
        return "caption" if self.several_videos else "video"


def finetune_retrieval(recipe: Mapping[str, Any], overrides: Sequence[str]) -> UMTRetrievalTrainer:
    """Run a retrieval recipe to its end or resume it; see `tasks.finetune`."""
    run, args = parse_recipe(recipe, overrides, RetrievalRun, UMTVideoTextArguments)
    require_keys(run, "data", "init_from")
    if not run.is_evaluated:  # the recipes choose the best epoch
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    folder = RunFolder.open(run, args)
    set_seed(args.seed)
    model = load_retrieval_model(run)
    if run.checkpoint_video:
        checkpoint_first_blocks(model.video_text.vision_model)
    image_size = training_crop(model.config.vision_config)
    processor = load_retrieval_processor(run, image_size)
    record_run_vocabulary(model.config, processor, run.init_from, run.text)
    pairs, evaluation_set = load_training_pairs(run, args, image_size), load_evaluation_set(run)
    note_texts(processor.inspect_texts(pairs.records.captions()), f"captions of {run.data}", args.should_save)
    if evaluation_set is not None:
        counts = processor.inspect_texts(evaluation_set.texts)
        note_texts(counts, f"captions of {run.eval_data or run.data} for evaluation", args.should_save)
    trainer = UMTRetrievalTrainer(
        model=model,
        args=args,
        processing_class=processor,
        train_dataset=pairs,
        eval_dataset=evaluation_set,
        num_reranked=run.num_reranked,
        trim_seconds=run.trim_seconds,
        run_facts=run_facts(run),
    )
    return run_to_end(trainer, folder, f'umt search "TEXT" VIDEOS --model {args.output_dir}')


def run_facts(run: RetrievalRun) -> RunFacts:
    """The facts of a run for its model card."""
    eval_data = describe_evaluation_data(run.eval_data or run.data, run.eval_split) if run.is_evaluated else None
    return RunFacts(
        data=(run.data,),
        eval_data=eval_data,
        starts=tuple(name for name in (run.init_from, run.text) if name),
        license=run.license,
        settings={
            "started from": run.init_from,
            "text encoder": run.text,
            "pairs that belong together": f"of one {run.positives}",
        },
    )


def load_training_pairs(run: RetrievalRun, args: UMTVideoTextArguments, image_size: int) -> VideoClipDataset:
    """Augmented clips, a pair for each text of a video."""
    records = load_captions(run, run.data, run.train_split)
    return VideoClipDataset(
        CaptionedRecords([join_paragraphs(records) if run.paragraph else records], run.positives),
        num_frames=run.num_frames,
        sample_frames=partial(sample_training_clip, sampling="middle"),
        transform=partial(augment_for_video_text, size=image_size, flip=run.flip),
        trim_seconds=run.trim_seconds,
        seed=data_seed(args),
    )


def load_captions(run: RetrievalRun, source: str, split: str | None) -> Dataset:
    """The table of a source, with a caption in every row."""
    records = load_video_records(source, root=run.data_root, split=split, with_labels=False, reads=("caption",))
    check_captions(records, source)
    return records


def load_evaluation_set(run: RetrievalRun) -> RetrievalSet | None:
    """The videos and texts of the evaluation data; None without evaluation data."""
    if not run.is_evaluated:
        return None
    records = load_captions(run, run.eval_data or run.data, run.eval_split)
    return retrieval_set(records, run.paragraph, run.several_videos)


def load_retrieval_processor(run: RetrievalRun, image_size: int) -> UMTProcessor:
    """The processor of the trained model, with the vocabulary of the model it starts from.

    Raises:
        ValueError: `init_from` is an official file, which has no vocabulary, and `text` is not given.
    """
    require_bert(run.init_from, run.text)
    if run.text is not None:
        return UMTProcessor.from_bert(
            run.text, num_frames=run.num_frames, image_size=image_size, max_text_length=run.max_text_length
        )
    processor = AutoProcessor.from_pretrained(run.init_from)
    processor.video_processor.num_frames = run.num_frames
    processor.max_text_length = run.max_text_length
    return processor


def load_retrieval_model(run: RetrievalRun) -> UMTForVideoTextPreTraining:
    """The stage-2 model of a run, with contrast and matching only, in float32.

    Raises:
        ValueError: `init_from` is not a stage-2 or retrieval model.
    """
    start = read_video_text_start(run.init_from)
    if start is None:
        raise ValueError(
            f"{run.init_from} is not a umt_video_text model; retrieval is fine-tuned from a stage-2 or retrieval "
            "model."
        )
    if start.architecture == "UMTForVideoQuestionAnswering":
        raise ValueError(
            f"{run.init_from} contains a UMTForVideoQuestionAnswering, which lacks the projections and the "
            "temperature of a stage-2 or retrieval model."
        )
    vision = {"num_frames": run.num_frames} | with_motion_drop(run.vision, run.motion_drop_ratio)
    changes = {"mlm_weight": 0.0, "uta_weight": 0.0} | run.model | {"vision_config": vision}
    return start.load(UMTForVideoTextPreTraining, changes)
