"""The name of a model, a saved folder or a repository on the Hub, and the kind of model that it contains.

Only the configuration is read, so that a wrong name or a wrong kind is an error before weights are loaded.
"""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

# architecture → what it is, and the commands that use it
KINDS = {
    "UMTModel": ("a video encoder without a head", "umt embed, umt finetune"),
    "UMTForPreTraining": ("a stage-1 model, a video encoder without a classification head", "umt embed, umt finetune"),
    "UMTForMaskedModeling": ("a model of masked tokens without a classification head", "umt embed, umt finetune"),
    "UMTForVideoClassification": ("a classifier", "umt classify, umt embed, umt evaluate"),
    "InternVideo2Model": ("an InternVideo2 video encoder without a head", "umt embed, umt finetune"),
    "InternVideo2ForPreTraining": (
        "a pre-trained InternVideo2 model, a video encoder without a classification head",
        "umt embed, umt finetune",
    ),
    "InternVideo2ForVideoClassification": ("an InternVideo2 classifier", "umt classify, umt embed, umt evaluate"),
    "UMTForActionDetection": ("an action detection model", "umt detect, umt evaluate --task detection"),
    "UMTTeacherModel": ("a teacher", "umt pretrain, umt show-mask"),
    "UMTImageTeacherModel": ("an image teacher of masked modelling", "umt pretrain"),
    "UMTForVideoTextPreTraining": ("a stage-2 model of videos and texts", "umt search, umt embed, umt finetune"),
    "UMTVideoTextModel": ("a model of videos and texts", "umt search, umt embed, umt evaluate --task retrieval"),
    "UMTForVideoQuestionAnswering": (
        "a question-answering model",
        "umt ask, umt evaluate --task question_answering",
    ),
}
# architectures that a command can use
CLASSIFIER = ("UMTForVideoClassification", "InternVideo2ForVideoClassification")
VIDEO_TEXT = ("UMTVideoTextModel", "UMTForVideoTextPreTraining")
# whose clips have a vector
ENCODERS = (
    *("UMTModel", "UMTForPreTraining", "UMTForMaskedModeling", "InternVideo2Model", "InternVideo2ForPreTraining"),
    *CLASSIFIER,
    *VIDEO_TEXT,
)
PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
OFFICIAL_ENDINGS = (".pth", ".pt", ".bin")  # of official files
# model types of video encoders, whose processor follows from their configuration
VIDEO_ENCODERS = ("umt", "internvideo2")
# model types whose inputs are the clips of another model, so that their folders need no processor
WITHOUT_PROCESSOR = ("umt_teacher", "umt_image_teacher")
_ADAPTER, _CONFIG = "adapter_config.json", "config.json"


def read_model_config(name: str, role: str = "model") -> dict[str, Any]:
    """The `config.json` of a model; of an adapter, that of its base model.

    Args:
        name: A model folder, or an id on the Hub.
        role: What the model is for, in error messages.

    Raises:
        OSError: the folder does not exist, the Hub does not have the model, or it cannot be reached.
        ValueError: the name is a file or a folder without a model, or its configuration is not JSON.
    """
    file = _local_config(name, role) if os.path.exists(name) or is_local_path(name) else _hub_config(name, role)
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; save or download the {role} again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged: it does not contain a JSON object; save or download the {role} again.")
    if Path(file).name == _ADAPTER:
        return read_model_config(config["base_model_name_or_path"], f"base model of the adapter {name}")
    return config


def has_file(name: str, *files: str) -> bool:
    """Whether a model's folder, or its repository on the Hub or in the Hub's cache, contains one of these files."""
    if os.path.isdir(name):
        return any(Path(name, file).is_file() for file in files)
    for file in files:
        try:
            hf_hub_download(name, file)
        except EntryNotFoundError:
            continue
        return True
    return False


def is_local_path(name: str) -> bool:
    """Whether a name can only be a path: an id on the Hub is `name` or `owner/name`."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is None


def architecture_of(config: dict[str, Any]) -> str | None:
    """The class that a model was saved from; None if the configuration does not state it."""
    return next(iter(config.get("architectures") or ()), None)


def describe_model(config: dict[str, Any]) -> str:
    """What a model is, such as `a classifier (UMTForVideoClassification)`."""
    architecture = architecture_of(config)
    if architecture in KINDS:
        return f"{KINDS[architecture][0]} ({architecture})"
    return f"a {architecture or config.get('model_type') or 'model of unknown type'}"


def require_architecture(name: str, config: dict[str, Any], suitable: Collection[str], purpose: str) -> None:
    """Raise a ValueError if a UMT model was saved from another class than the suitable ones.

    Args:
        name: Name of the model.
        config: Its configuration.
        suitable: Names of classes.
        purpose: What the model can't do otherwise, such as `classify`.
    """
    architecture = architecture_of(config)
    if architecture not in KINDS or architecture in suitable:
        return
    *rest, last = (f"{KINDS[known][0].partition(',')[0]} ({known})" for known in suitable)
    needed = f"{', '.join(rest)} or {last}" if rest else last
    raise ValueError(
        f"{name} cannot {purpose}: it is {describe_model(config)}, and {needed} is needed. Commands for {name}: "
        f"{KINDS[architecture][1]}."
    )


def _local_config(name: str, role: str) -> Path:
    folder = Path(name)
    if not folder.exists():
        advice = "; `~` was not expanded" if name.startswith("~") else ""
        raise FileNotFoundError(f"The {role} folder {name} does not exist{advice}; check the path.")
    if not folder.is_dir():
        advice = "convert it first: umt convert" if name.endswith((".pth", ".pt", ".bin")) else "give its folder"
        raise ValueError(
            f"{name} is a file, but a {role} is a folder with config.json, or an id on the Hub; {advice}."
        )
    for file in (_CONFIG, _ADAPTER):  # a full model first, as Transformers reads a folder
        if (folder / file).is_file():
            return folder / file
    saved = sorted(folder.glob(f"*/{_CONFIG}"), key=lambda file: file.stat().st_mtime)
    advice = f"did you mean {saved[-1].parent}?" if saved else "give the folder of a saved model."
    raise ValueError(f"The folder {name} does not contain a {role}: it has no config.json; {advice}")


def _hub_config(name: str, role: str) -> str:
    file = _CONFIG
    try:
        try:
            return hf_hub_download(name, file)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
            file = _ADAPTER
            return hf_hub_download(name, file)
    except GatedRepoError as error:
        raise OSError(
            f"Access to {name} on the Hub must be requested on its page, and then: hf auth login."
        ) from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"The {role} {name} does not exist: it is not a local folder, and the Hub has no such model, or it is "
            "private (hf auth login)."
        ) from error
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"The {role} {name} is not a local folder, and the Hub, whose cache does not have it, cannot be reached; "
            "check the path and the connection."
        ) from error
    except EntryNotFoundError as error:
        raise ValueError(
            f"{name} on the Hub does not contain a {role} of Transformers: it has no config.json."
        ) from error
