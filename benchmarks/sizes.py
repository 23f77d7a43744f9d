"""The models of the speed benchmarks: the published sizes and a tiny one, with random weights."""

import torch

from modeling_umt import UMTConfig, UMTForPreTraining, UMTTeacherConfig, UMTTeacherModel

B16 = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
L16 = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
ENCODERS = {
    "tiny": TINY | {"image_size": 64, "num_frames": 2, "num_aligned_layers": 2, "target_dim": 16},
    "b16": B16 | {"target_dim": 512},
    "l16": L16,
}
TEACHERS = {
    "tiny": TINY | {"image_size": 56, "num_aligned_layers": 2, "projection_dim": 16},
    "b16": B16 | {"image_size": 224, "patch_size": 16, "projection_dim": 512},
    "l16": L16,
}
TEXTS = {  # text encoders of stage 2, in the sizes of BERT
    "tiny": TINY | {"vocab_size": 123, "max_position_embeddings": 32, "fusion_layer": 2},
    "b16": B16 | {"fusion_layer": 9},
    "l16": L16 | {"fusion_layer": 19},
}


def student(size: str, **fields) -> UMTForPreTraining:
    """A stage-1 student of a size, in training mode."""
    torch.manual_seed(0)
    return UMTForPreTraining(UMTConfig(**ENCODERS[size] | fields)).train()


def teacher(size: str, **fields) -> UMTTeacherModel:
    """The published recipe's teacher for a student of a size."""
    torch.manual_seed(1)
    return UMTTeacherModel(UMTTeacherConfig(**TEACHERS[size] | fields)).eval().requires_grad_(False)


def clips(batch: int, config: UMTConfig, num_frames: int | None = None) -> torch.Tensor:
    """Clips of noise, uint8 (B, T, C, H, W)."""
    shape = (batch, num_frames or config.num_frames, config.num_channels, *config.image_height_width)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
