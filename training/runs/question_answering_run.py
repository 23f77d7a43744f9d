"""A whole question-answering run from a recipe: questions, model, trainer, resume (arXiv 2303.16058, section 4.3)."""

from dataclasses import dataclass
from functools import partial

from transformers import set_seed

from modeling_umt import UMTConfig, UMTForVideoQuestionAnswering
from processing_umt import UMTProcessor
from processing_umt.augmentation_umt import augment_for_video_text
from processing_umt.frame_sampling_umt import sample_training_clip

from ..data.question_records import load_question_records, read_answers
from ..data.video_dataset import VideoClipDataset
from ..trainers.question_answering import UMTQuestionAnsweringArguments, UMTQuestionAnsweringTrainer
from .recipes import config_fields, for_this_machine, parse_recipe, read_recipe
from .resume import save_with_card, train_or_resume
from .run_clips import data_seed, evaluation_clips, training_crop
from .video_text_run import load_stage2


@dataclass
class QuestionAnsweringRun:
    """What a question-answering recipe says beside the training arguments.

    Args:
        task: `question_answering`; `umt finetune` chooses the kind of run by it.
        data: Questions with answers: an official annotation file or any table with such columns
            (`load_question_records`).
        eval_data: Questions to choose the best checkpoint by; by default `eval_split` of `data`, if it is given.
        data_root: Folder that relative paths of the lists start from.
        train_split, eval_split: Splits, where `data` has some.
        answers: The answers that evaluation chooses from: a JSON list, or a text file with one in each line.
        scored: Answers of a question that evaluation scores to their end.
        init_from: A stage-2 model: saved, on the Hub, or an official `.pth`.
        text: Hub id or folder of the BERT whose vocabulary the model has; by default that of `init_from`'s processor,
            which an official `.pth` does not have.
        num_frames: Frames of a clip.
        max_text_length: Tokens of a question.
        model: Fields of the video encoder's `UMTConfig` that differ from the checkpoint's, as a mapping (JSON on the
            command line).
        flip: Mirror half of the training clips, as published; false where questions tell left from right.
        license: Licence of the trained model, for its card; an identifier of the Hub, such as `apache-2.0`.
    """

    task: str = "question_answering"
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
    model: str = "{}"
    flip: bool = True
    license: str | None = None


def finetune_question_answering(recipe: str, overrides: list[str]) -> UMTQuestionAnsweringTrainer:
    """Run a question-answering recipe to its end, from the last checkpoint in `output_dir` if there is one.

    The trained model, its code, its processor and its card end in `output_dir`. Without an accelerator the arithmetic
    is float32, whatever the recipe says.

    Raises:
        ValueError: before the first step, if a key is unknown, data, a start or the list of answers are missing, or
            the start is no stage-2 model.
    """
    run, args = parse_recipe(
        for_this_machine(read_recipe(recipe)), overrides, QuestionAnsweringRun, UMTQuestionAnsweringArguments
    )
    for key in ("data", "init_from"):
        if getattr(run, key) is None:
            raise ValueError(f"No `{key}` given; say --{key} ...")
    is_evaluated = run.eval_data is not None or run.eval_split is not None
    if is_evaluated and run.answers is None:
        raise ValueError("Evaluation chooses from a list of answers; say --answers FILE, or give no evaluation data.")
    set_seed(args.seed)
    model = load_model(run)
    processor = load_processor(run, model.config.vision_config)
    trainer = UMTQuestionAnsweringTrainer(
        model=model,
        args=args,
        processing_class=processor,
        candidates=read_answers(run.answers) if is_evaluated else (),
        k=run.scored,
        train_dataset=load_training_clips(run, args, training_crop(model.config.vision_config)),
        eval_dataset=load_evaluation_clips(run, processor) if is_evaluated else None,
    )
    trainer.run = run
    train_or_resume(trainer)
    save_with_card(trainer)
    return trainer


def load_model(run: QuestionAnsweringRun) -> UMTForVideoQuestionAnswering:
    """The model of a run, in float32, started from stage 2.

    Raises:
        ValueError: if the start is no stage-2 model, or `model` names what is no field.
    """
    fields = {"num_frames": run.num_frames} | config_fields(run, UMTConfig)
    start = load_stage2(run.init_from, {})
    if start is None:
        raise ValueError(
            f"{run.init_from} is no stage-2 model (UMTForVideoTextPreTraining), which answers start from."
        )
    return UMTForVideoQuestionAnswering.from_video_text(start, **fields)


def load_processor(run: QuestionAnsweringRun, vision: UMTConfig) -> UMTProcessor:
    """The processor of the trained model, with the vocabulary that it started with."""
    if run.text is None and run.init_from.endswith(".pth"):
        raise ValueError(
            "An official file has no vocabulary; name its BERT, e.g. --text google-bert/bert-base-uncased."
        )
    return UMTProcessor.from_bert(
        run.text or UMTProcessor.from_pretrained(run.init_from).tokenizer,
        num_frames=vision.num_frames,
        image_size=vision.image_size,
        max_text_length=run.max_text_length,
    )


def load_training_clips(
    run: QuestionAnsweringRun, args: UMTQuestionAnsweringArguments, image_size: int
) -> VideoClipDataset:
    """Clips of every question, augmented as in stage 2 (method, 16)."""
    return VideoClipDataset(
        load_question_records(run.data, root=run.data_root, split=run.train_split),
        num_frames=run.num_frames,
        sample_frames=partial(sample_training_clip, sampling="middle"),
        transform=partial(augment_for_video_text, size=image_size, flip=run.flip),
        seed=data_seed(args),
    )


def load_evaluation_clips(run: QuestionAnsweringRun, processor: UMTProcessor) -> VideoClipDataset:
    """Clips of the evaluation's questions as the processor makes them; nothing is drawn."""
    records = load_question_records(run.eval_data or run.data, root=run.data_root, split=run.eval_split)
    return evaluation_clips(records, run.num_frames, processor.video_processor)
