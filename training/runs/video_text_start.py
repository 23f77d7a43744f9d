"""The video-text model that a run starts from: a saved one, one on the Hub, or an official `.pth`.

Stage 2, retrieval and question answering start from each other's models. A run never initialises a head that the model
should have: what it lacks is an error that names the parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from modeling_umt import UMTVideoTextConfig, convert_umt_checkpoint
from modeling_umt.vocabulary_umt import record_vocabulary
from processing_umt import UMTProcessor

from ..model_sources import architecture_of, read_model_config
from .initial_weights import load_initial_weights


@dataclass(frozen=True)
class VideoTextStart:
    """A video-text model before its weights are loaded into the class of a run.

    Args:
        name: Folder, Hub id or official `.pth`.
        config: Its configuration.
        state_dict: The weights of an official file; None for others, which are read by `load`.
    """

    name: str
    config: UMTVideoTextConfig
    state_dict: dict[str, torch.Tensor] | None = None

    @property
    def architecture(self) -> str | None:
        """Name of the class that it was saved from; None if the configuration does not state it."""
        return architecture_of(self.config.to_dict())

    def load(
        self, model_class: type[PreTrainedModel], changes: Mapping[str, Any], advice: str = ""
    ) -> PreTrainedModel:
        """The model in a class, in float32.

        Args:
            model_class: Class of the model.
            changes: Fields of `UMTVideoTextConfig` that differ; mappings are merged field by field.
            advice: Last sentence of the error.

        Raises:
            ValueError: the model lacks weights of the class.
        """
        config = UMTVideoTextConfig.from_dict(changed(self.config.to_dict(), changes))
        given = {"config": config, "dtype": torch.float32}
        if self.state_dict is not None:
            given["state_dict"] = self.state_dict
        return load_initial_weights(model_class, self.name, advice=advice, **given)


def read_video_text_start(name: str) -> VideoTextStart | None:
    """The video-text model of this name; None if it is a model of another type.

    Raises:
        OSError, ValueError: see `read_model_config` and `convert_umt_checkpoint`.
    """
    if name.endswith(".pth"):
        official = convert_umt_checkpoint(name)
        official.config.architectures = [type(official).__name__]
        if official.config.model_type != UMTVideoTextConfig.model_type:
            return None
        return VideoTextStart(name, official.config, official.state_dict())
    config = read_model_config(name)
    if config.get("model_type") != UMTVideoTextConfig.model_type:
        return None
    return VideoTextStart(name, UMTVideoTextConfig.from_dict(config))


def require_bert(init_from: str, text: str | None) -> None:
    """Raise a ValueError if the vocabulary of a model is unknown: `init_from` is an official `.pth`, which does not
    contain it, and `text`, the BERT that has it, is not given."""
    if text is None and init_from.endswith(".pth"):
        raise ValueError(f"{init_from} has no vocabulary; give its BERT, e.g. --text google-bert/bert-base-uncased.")


def record_run_vocabulary(
    config: UMTVideoTextConfig, processor: UMTProcessor, init_from: str | None, text: str | None
) -> None:
    """Writes the hash of the processor's vocabulary into the configuration of a run's model.

    Args:
        config: The configuration of the model.
        processor: Its processor.
        init_from, text: The model that the run starts from, and the BERT that has the vocabulary.

    Raises:
        ValueError: the model has another vocabulary.
    """
    model = f"the model that starts from {init_from or text}"
    record_vocabulary(config, processor.tokenizer, model, text or f"the processor of {init_from}")


def changed(settings: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes`, whose mappings are merged field by field."""
    nested = {key: changed(settings[key], value) for key, value in changes.items() if isinstance(value, Mapping)}
    return settings | dict(changes) | nested
