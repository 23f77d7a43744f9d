"""A tiny video-text model with its processor, for the tests of retrieval and search."""

from pathlib import Path

import torch
from bert_vocabulary import write_vocabulary
from recorded_models import encoder_sizes, sub_state

from modeling_umt import UMTTextConfig, UMTVideoTextConfig, UMTVideoTextModel, convert_umt_checkpoint
from processing_umt import UMTProcessor


def tiny_retrieval_model(seed: int = 0) -> UMTVideoTextModel:
    """A seeded model whose scores differ from pair to pair."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = UMTVideoTextModel(
        UMTVideoTextConfig(
            vision_config={"image_size": 32, "num_frames": 2, "num_aligned_layers": 1, **sizes},
            text_config={"vocab_size": 123, "max_position_embeddings": 24, "fusion_layer": 1, **sizes},
            projection_dim=16,
        )
    )
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def recorded_retrieval_model(description: dict, tensors: dict[str, torch.Tensor]) -> UMTVideoTextModel:
    """The converted model of a recording of the official code such as `retrieval_rerank`."""
    vision, bert = (description["config"][name] for name in ("vision_encoder", "text_encoder"))
    fields = UMTTextConfig().to_dict().keys() - {"architectures", "model_type"}
    config = UMTVideoTextConfig(
        vision_config={**encoder_sizes(vision), "num_frames": vision["num_frames"], "num_aligned_layers": 1},
        text_config={key: value for key, value in bert["bert_config"].items() if key in fields},
        projection_dim=description["config"]["embed_dim"],
    )
    return convert_umt_checkpoint(sub_state(tensors), config)


def save_tiny_retrieval_model(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tiny_retrieval_model(seed).save_pretrained(folder)
    vocabulary = write_vocabulary(folder)
    UMTProcessor.from_bert(vocabulary, image_size=32, num_frames=2, max_text_length=8).save_pretrained(folder)
    return folder
