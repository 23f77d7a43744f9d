"""Model inputs from videos and captions: frame sampling, decoding, video processor, augmentation, tokenizer.

This file registers the processors for the models' configurations. It is never copied to the Hub, where `auto_map` does
the same.
"""

from transformers import AutoProcessor, AutoVideoProcessor

from .processing_umt import UMTProcessor
from .video_processing_umt import UMTVideoProcessor, fold_views
from .video_source_umt import VideoDecodeError

# Importing modeling_umt imports this package again, which is complete except for the registration below.
from modeling_umt.configuration_internvideo2_umt import InternVideo2Config  # isort: skip
from modeling_umt.configuration_umt import UMTConfig, UMTVideoTextConfig  # isort: skip

AutoVideoProcessor.register(UMTConfig, UMTVideoProcessor, exist_ok=True)
AutoVideoProcessor.register(UMTVideoTextConfig, UMTVideoProcessor, exist_ok=True)
AutoVideoProcessor.register(InternVideo2Config, UMTVideoProcessor, exist_ok=True)
AutoProcessor.register(UMTVideoTextConfig, UMTProcessor, exist_ok=True)
UMTVideoProcessor.register_for_auto_class("AutoVideoProcessor")
UMTProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["UMTProcessor", "UMTVideoProcessor", "VideoDecodeError", "fold_views"]
