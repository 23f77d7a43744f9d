"""Training, evaluation and the command line of UMT. Names here are imported on use, so that `umt --help` is quick."""

import importlib

_HOMES = {
    "UMTPreTrainingArguments": "pretraining",
    "UMTPreTrainingTrainer": "pretraining",
    "UMTFineTuningArguments": "finetuning",
    "UMTFineTuningTrainer": "finetuning",
    "UMTQuestionAnsweringArguments": "question_answering",
    "UMTQuestionAnsweringTrainer": "question_answering",
    "UMTVideoTextArguments": "video_text",
    "UMTVideoTextTrainer": "video_text",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
