"""Training, evaluation and the command line of UMT. Names are imported on first use, which keeps `umt --help` fast."""

import importlib

_HOMES = {
    "UMTPreTrainingArguments": "trainers.pretraining",
    "UMTPreTrainingTrainer": "trainers.pretraining",
    "UMTDistillationArguments": "trainers.distillation",
    "UMTDistillationTrainer": "trainers.distillation",
    "UMTActionDetectionArguments": "trainers.detection",
    "UMTActionDetectionTrainer": "trainers.detection",
    "UMTFineTuningArguments": "trainers.finetuning",
    "UMTFineTuningTrainer": "trainers.finetuning",
    "UMTMaskedModelingArguments": "trainers.masked_modeling",
    "UMTMaskedModelingTrainer": "trainers.masked_modeling",
    "UMTQuestionAnsweringArguments": "trainers.question_answering",
    "UMTQuestionAnsweringTrainer": "trainers.question_answering",
    "UMTRetrievalTrainer": "trainers.retrieval",
    "UMTVideoTextArguments": "trainers.video_text",
    "UMTVideoTextTrainer": "trainers.video_text",
    "UMTActionDetectionPipeline": "detection.pipeline",
    "UMTBatchClassifier": "batch_callables",
    "UMTBatchEmbedder": "batch_callables",
    "RunFacts": "cards.run_facts",
    "finetune": "runs.tasks",
    "pretrain": "runs.tasks",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
