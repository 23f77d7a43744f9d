"""The fingerprint of a model and its processor, by which an index recognises the model of its vectors."""

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.processing_utils import VideosKwargs

from modeling_umt.vocabulary_umt import vocabulary_hash
from processing_umt import UMTProcessor, UMTVideoProcessor

# fields of a configuration that its model does not depend on, besides those of Transformers, which differ from version
# to version; the vocabulary has its own hash
_WITHOUT_EFFECT = {"auto_map", "vocabulary_hash"}
# options of Transformers that determine pixels; those that UMTVideoProcessor adds are all covered
_PIXEL_OPTIONS = {
    "num_frames", "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std", "do_convert_rgb",
}  # fmt: skip
_TEXT_PARTS = ("normalizer", "pre_tokenizer", "post_processor")


def fingerprint(model: PreTrainedModel, processor: UMTProcessor) -> str:
    """A hash of what the vectors of videos and texts depend on, 32 hexadecimal digits.

    It covers the configuration, every weight as float32, the options of the video processor, and the vocabulary and
    rules of the tokenizer. It is the same for a model that was saved and loaded, on every device.
    """
    digest = hashlib.blake2b(digest_size=16)
    facts = [_fields(model.config.to_dict()), _video_options(processor.video_processor), _text_options(processor)]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    left_out = PreTrainedConfig().to_dict().keys() - {"model_type"} | _WITHOUT_EFFECT
    fields = {name: value for name, value in config.items() if name not in left_out}
    return {name: _fields(value) if isinstance(value, dict) else value for name, value in fields.items()}


def _video_options(processor: UMTVideoProcessor) -> dict[str, Any]:
    own = processor.valid_kwargs.__annotations__.keys() - VideosKwargs.__annotations__.keys()
    options = {name: getattr(processor, name) for name in own | _PIXEL_OPTIONS}
    return options | {name: dict(options[name]) for name in ("size", "crop_size")}


def _text_options(processor: UMTProcessor) -> dict[str, Any]:
    rules = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    options = {"max_text_length": processor.max_text_length, "vocabulary": vocabulary_hash(processor.tokenizer)}
    return options | {name: rules[name] for name in _TEXT_PARTS}
