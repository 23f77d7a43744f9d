"""Pixel reconstruction of masked tokens without a teacher (VideoMAE, arXiv 2203.12602), the alternative to alignment
in `benchmarks.demo_ablations`.

The encoder is the same `UMTModel` and sees only the visible tokens of a tube mask. A decoder of half its hidden size
gets the encoded tokens and a mask token at every masked position, and predicts the pixels of the masked patches, with
each channel of a patch normalised to mean 0 and standard deviation 1. The loss is the mean squared error. The paper
compares the two objectives at full scale (arXiv 2303.16058, ablation of targets).

The variance of a patch has a floor of 1e-6, as in image MAE (arXiv 2111.06377); VideoMAE adds 1e-6 to the standard
deviation instead. Generated clips have patches of a single colour, whose rounding errors would otherwise become
targets.

Shapes: B views, N tokens of a clip, V visible tokens, P pixels of a patch in one channel, D decoder hidden size.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from modeling_umt import UMTConfig, UMTModel
from modeling_umt.modeling_umt import UMTPreTrainedModel
from modeling_umt.position_embeddings_umt import position_table
from modeling_umt.token_selection_umt import mask_from_visible_indices, tube_token_selection
from modeling_umt.transformer_block_umt import UMTLayer
from umt_training.demo.tiny_runs import OnStep, callbacks, pretraining_arguments
from umt_training.trainers.base_trainer import UMTTrainer

# VideoMAE's decoder has half the encoder's hidden size, and four layers for twelve
DECODER_RATIO = 2
DECODER_LAYERS = 2


def normalised_patches(clips: torch.Tensor, config: UMTConfig) -> torch.Tensor:
    """Targets (B, N, channels * P): every channel of a patch with mean 0 and standard deviation 1.

    Args:
        clips: (B, T, C, height, width), of the size given by `config`.
    """
    frames, rows, columns = config.token_grid
    patches = clips.float().unflatten(1, (frames, -1)).unflatten(-2, (rows, -1)).unflatten(-1, (columns, -1))
    # (B, frames, tubelet, C, rows, patch, columns, patch) → (B, N, C, P), tokens in the encoder's order
    patches = patches.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(5).flatten(1, 3)
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return ((patches - mean) / (variance + 1e-6).sqrt()).flatten(2)


class PixelReconstruction(UMTPreTrainedModel):
    """An encoder with a decoder that is used in training only; save `umt`.

    Args:
        config: Configuration of the encoder. The decoder uses its attention implementation too.
    """

    def __init__(self, config: UMTConfig):
        super().__init__(config)
        decoder = copy.deepcopy(config)
        decoder.hidden_size //= DECODER_RATIO
        decoder.intermediate_size //= DECODER_RATIO
        decoder.num_attention_heads //= DECODER_RATIO
        hidden_size = decoder.hidden_size
        self.umt = UMTModel(config)
        self.bridge = nn.Linear(config.hidden_size, hidden_size, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(hidden_size))  # position embeddings distinguish masked tokens
        self.decoder_layers = nn.ModuleList([UMTLayer(decoder) for _ in range(DECODER_LAYERS)])
        self.decoder_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(hidden_size, config.num_channels * config.tubelet_size * config.patch_size**2)
        table = position_table(config.token_grid, hidden_size, config.position_grid)
        self.register_buffer("decoder_positions", table, persistent=False)  # (N, D)
        self.post_init()

    def forward(self, pixel_values_videos: torch.Tensor, visible_indices: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar: the mean squared error of the masked patches.

        Args:
            pixel_values_videos: (B, T, C, height, width), normalised.
            visible_indices: int64 (B, V), ascending.
        """
        num_tokens = len(self.decoder_positions)
        masked = mask_from_visible_indices(visible_indices, num_tokens)  # (B, N)
        encoded = self.umt(pixel_values_videos, visible_indices=visible_indices).last_hidden_state
        visible_states = self.bridge(encoded)  # (B, V, D)
        states = self.mask_token.to(visible_states.dtype).expand(len(visible_states), num_tokens, -1)  # (B, N, D)
        states = states.scatter(1, visible_indices[..., None].expand_as(visible_states), visible_states)
        states = states + self.decoder_positions.to(states.dtype)
        for layer in self.decoder_layers:
            states = layer(states)
        predicted = self.head(self.decoder_norm(states[masked]))  # (masked tokens of all views, channels * P)
        return F.mse_loss(predicted.float(), normalised_patches(pixel_values_videos, self.config)[masked])


class PixelReconstructionTrainer(UMTTrainer):
    """Trains a `PixelReconstruction` under tube masks, sampled from each clip's own seed.

    The arguments are those of `UMTTrainer`; of the masks in `args`, a `UMTPreTrainingArguments`, only `mask_ratio` is
    used.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips = self.pixel_values(inputs["pixel_values_videos"])
        frames, rows, columns = self.model.config.token_grid
        grid = clips.new_empty(len(clips), frames, rows * columns)  # tube masks need only the shape
        visible_indices = tube_token_selection(grid, self.args.mask_ratio, sample_seeds=inputs["sample_seeds"])
        return model(clips, visible_indices)


def pixel_trainer(
    train_dataset: Dataset,
    config: UMTConfig,
    output_dir: Path,
    num_steps: int,
    *,
    seed: int = 0,
    on_step: OnStep | None = None,
    **options: Any,
) -> PixelReconstructionTrainer:
    """The counterpart of `tiny_runs.pretraining_trainer`: as many views per step, one per clip, with the same learning
    rate and schedule.

    Args:
        options: More arguments of the trainer.
    """
    torch.manual_seed(seed)
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    args = pretraining_arguments(output_dir, num_steps, mask_type="tube", num_masks=1, seed=seed)
    return PixelReconstructionTrainer(
        PixelReconstruction(config), args, train_dataset=train_dataset, callbacks=callbacks(on_step), **options
    )
