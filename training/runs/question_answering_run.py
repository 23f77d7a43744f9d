"""A question-answering run from a recipe: model, questions, trainer, resume (arXiv 2303.16058, section 4.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from datasets import Dataset
from transformers import set_seed

from modeling_umt import UMTConfig, UMTForVideoQuestionAnswering, UMTForVideoTextPreTraining
from processing_umt import UMTProcessor
from processing_umt.augmentation_umt import augment_for_video_text
from processing_umt.frame_sampling_umt import sample_training_clip

from ..cards.run_facts import RunFacts
from ..data.question_records import load_question_records, read_answers, weigh_answers
from ..data.text_columns import note_texts
from ..data.video_dataset import VideoClipDataset
from ..evaluation.question_answering import possible_accuracy
from ..trainers.argument_ranges import require_ranges
from ..trainers.question_answering import (
    UMTQuestionAnsweringArguments,
    UMTQuestionAnsweringTrainer,
    most_frequent_answer,
)
from .motion_setting import with_motion_drop
from .recipes import parse_recipe, require_keys
from .resume import run_to_end
from .run_clips import data_seed, describe_evaluation_data, evaluation_clips, training_crop
from .run_folder import RunFolder
from .video_text_start import read_video_text_start, record_run_vocabulary, require_bert

START_ADVICE = (
    "Question answering starts from a stage-2 model, whose masked language modelling head (mlm_head) becomes that of "
    "the answer decoder, or from a question-answering model."
)


@dataclass
class QuestionAnsweringRun:
    """The keys of a question-answering recipe beside the training arguments.

    Args:
        task: `question_answering`.
        data: Questions with answers: an official annotation file or any table with such columns
            (`load_question_records`).
        eval_data: Questions to choose the best checkpoint by; by default `eval_split` of `data`, if it is given.
        data_root: Folder that relative paths of the lists start from.
        train_split, eval_split: Splits, if `data` has splits.
        answers: The answers that evaluation chooses from: a JSON list, or a text file with one in each line.
        scored: Answers per question that evaluation scores completely; see `rank_answers`.
        init_from: A stage-2 model, or a question-answering model, whose decoder and head are kept: saved, on the Hub,
            or an official `.pth`.
        text: Hub id or folder of the BERT whose vocabulary the model has; by default that of `init_from`'s processor,
            which an official `.pth` does not have.
        num_frames: Frames of a clip.
        max_text_length: Tokens of a question.
        model: Fields of the video encoder's `UMTConfig` that differ from the checkpoint's, as a mapping.
        motion_drop_ratio: Fraction of the tokens that the video encoder drops by motion, in training and afterwards.
            By default that of the checkpoint.
        flip: Mirror half of the training clips, as published; false if questions distinguish left from right.
        license: Licence of the trained model, for its card; an identifier of the Hub, such as `apache-2.0`.
    """

    task: Literal["question_answering"] = "question_answering"
    data: str | None = None
    eval_data: str | None = None
    data_root: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    answers: str | None = None
    scored: int = 128
    init_from: str | None = None
    text: str | None = None
    num_frames: int = 12
    max_text_length: int = 25
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTConfig})
    motion_drop_ratio: float | None = None
    flip: bool = True
    license: str | None = None

    def __post_init__(self):
        require_ranges(
            self,
            {
                "num_frames": "[1, inf)",
                "max_text_length": "[2, inf)",
                "scored": "[1, inf)",
                "motion_drop_ratio": "[0, 1)",
            },
        )

    @property
    def is_evaluated(self) -> bool:
        return bool(self.eval_data or self.eval_split)


def finetune_question_answering(recipe: Mapping[str, Any], overrides: Sequence[str]) -> UMTQuestionAnsweringTrainer:
    """Run a question-answering recipe to its end or resume it; see `tasks.finetune`."""
    run, args = parse_recipe(recipe, overrides, QuestionAnsweringRun, UMTQuestionAnsweringArguments)
    require_keys(run, "data", "init_from")
    if run.is_evaluated and not run.answers:
        raise ValueError("Evaluation chooses from a list of answers; give --answers FILE, or no evaluation data.")
    candidates = read_answers(run.answers) if run.is_evaluated else []
    folder = RunFolder.open(run, args)
    set_seed(args.seed)
    model = load_model(run)
    processor = load_processor(run, model.config.vision_config)
    record_run_vocabulary(model.config, processor, run.init_from, run.text)
    clips = load_training_clips(run, args, training_crop(model.config.vision_config))
    evaluation = load_evaluation_clips(run, processor, candidates)
    note_question_texts(run, processor, clips.records, candidates, args.should_save)
    trainer = UMTQuestionAnsweringTrainer(
        model=model,
        args=args,
        processing_class=processor,
        train_dataset=clips,
        eval_dataset=evaluation,
        candidates=candidates,
        k=run.scored,
        run_facts=run_facts(run),
    )
    return run_to_end(trainer, folder, f'umt ask VIDEO "QUESTION" --model {args.output_dir}')


def note_question_texts(
    run: QuestionAnsweringRun, processor: UMTProcessor, records: Dataset, candidates: list[str], is_main_process: bool
) -> None:
    """Prints which questions and answers the model can't read completely or tell apart; see `note_texts`."""
    questions = list(dict.fromkeys(records["question"]))
    answers = list(dict.fromkeys(text for answer in records["answer"] for text in weigh_answers(answer)[0]))
    note_texts(processor.inspect_texts(questions), f"questions of {run.data}", is_main_process)
    note_texts(processor.inspect_answers(answers), f"answers of {run.data}", is_main_process)
    if candidates:
        note_texts(processor.inspect_answers(candidates), f"answers of {run.answers}", is_main_process)


def run_facts(run: QuestionAnsweringRun) -> RunFacts:
    """The facts of a run for its model card."""
    eval_data = describe_evaluation_data(run.eval_data or run.data, run.eval_split) if run.is_evaluated else None
    return RunFacts(
        data=(run.data,),
        eval_data=eval_data,
        starts=(run.init_from,),
        license=run.license,
        settings={"started from": run.init_from},
    )


def load_model(run: QuestionAnsweringRun) -> UMTForVideoQuestionAnswering:
    """The model of a run, in float32: started from stage 2, or from a question-answering model with its decoder.

    Raises:
        ValueError: `init_from` is neither of the two, or lacks a part of it.
    """
    start = read_video_text_start(run.init_from)
    if start is None:
        raise ValueError(f"{run.init_from} is not a model of videos and texts. {START_ADVICE}")
    vision = {"num_frames": run.num_frames} | with_motion_drop(run.model, run.motion_drop_ratio)
    if start.architecture == "UMTForVideoQuestionAnswering":
        return start.load(UMTForVideoQuestionAnswering, {"vision_config": vision}, START_ADVICE)
    # a model of retrieval may state the weight of a head that it does not have, or 0; alignment is not used
    stage2 = start.load(UMTForVideoTextPreTraining, {"mlm_weight": 1.0, "uta_weight": 0.0}, START_ADVICE)
    return UMTForVideoQuestionAnswering.from_video_text(stage2, **vision)


def load_processor(run: QuestionAnsweringRun, vision: UMTConfig) -> UMTProcessor:
    """The processor of the trained model, with the vocabulary of the model it starts from.

    Raises:
        ValueError: `init_from` is an official file, which has no vocabulary, and `text` is not given.
    """
    require_bert(run.init_from, run.text)
    return UMTProcessor.from_bert(
        run.text or UMTProcessor.from_pretrained(run.init_from).tokenizer,
        num_frames=vision.num_frames,
        image_size=vision.image_size,
        max_text_length=run.max_text_length,
    )


def load_training_clips(
    run: QuestionAnsweringRun, args: UMTQuestionAnsweringArguments, image_size: int
) -> VideoClipDataset:
    """A clip for every question, augmented as in stage 2."""
    return VideoClipDataset(
        load_question_records(run.data, root=run.data_root, split=run.train_split),
        num_frames=run.num_frames,
        sample_frames=partial(sample_training_clip, sampling="middle"),
        transform=partial(augment_for_video_text, size=image_size, flip=run.flip),
        seed=data_seed(args),
    )


def load_evaluation_clips(
    run: QuestionAnsweringRun, processor: UMTProcessor, candidates: Sequence[str]
) -> VideoClipDataset | None:
    """A clip for every question of the evaluation data, made by the processor; None without evaluation data.

    Raises:
        ValueError: none of the answers is among the candidates.
    """
    if not run.is_evaluated:
        return None
    records = load_question_records(run.eval_data or run.data, root=run.data_root, split=run.eval_split)
    answers = [most_frequent_answer(*weigh_answers(answer)) for answer in records["answer"]]
    possible_accuracy(answers, candidates)
    return evaluation_clips(records, run.num_frames, processor.video_processor)
