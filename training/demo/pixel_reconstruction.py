"""What stage 1 is compared with: pixels of hidden tokens predicted, without a teacher (VideoMAE, arXiv 2203.12602).

The encoder is the same `UMTModel` and sees the visible tokens of a tube mask alone. A decoder of half its width gets
them back with a mask token at every hidden place, and predicts the pixels of the hidden patches, each patch's channels
brought to mean 0 and standard deviation 1. The loss is their mean squared error. The paper compares the two objectives
at full scale (arXiv 2303.16058, ablation of targets).

At toy scale only, for `umt demo --ablate target`: no model of this kind is published, and the encoder is all that is
kept. Unusual: the variance of a patch has a floor of 1e-6, as in image MAE (arXiv 2111.06377), where VideoMAE adds
1e-6 to the deviation. Generated clips have patches of one colour, whose rounding errors would else become targets.

Shape legend: B views, N tokens of a clip, V visible ones, H hidden ones, P pixels of a patch in one channel.
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

from ..trainers.base_trainer import UMTTrainer
from .tiny_runs import OnStep, callbacks, pretraining_arguments

# VideoMAE's decoder is half as wide as its encoder, with four layers for twelve
DECODER_SHARE = 2
DECODER_LAYERS = 2


def normalised_patches(clips: torch.Tensor, config: UMTConfig) -> torch.Tensor:
    """What is to be predicted: (B, N, channels * P), every channel of a patch with mean 0 and deviation 1.

    Args:
        clips: (B, T, C, height, width), of the size that `config` is made for.
    """
    frames, rows, columns = config.token_grid
    patches = clips.float().unflatten(1, (frames, -1)).unflatten(-2, (rows, -1)).unflatten(-1, (columns, -1))
    # (B, frames, tubelet, C, rows, patch, columns, patch) → (B, N, C, P), tokens in the encoder's order
    patches = patches.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(5).flatten(1, 3)
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return ((patches - mean) / (variance + 1e-6).sqrt()).flatten(2)


class PixelReconstruction(UMTPreTrainedModel):
    """An encoder with a decoder that exists for its training alone; save `umt`.

    Args:
        config: Of the encoder. Its attention implementation is the decoder's too.
    """

    def __init__(self, config: UMTConfig):
        super().__init__(config)
        decoder = copy.deepcopy(config)
        decoder.hidden_size //= DECODER_SHARE
        decoder.intermediate_size //= DECODER_SHARE
        decoder.num_attention_heads //= DECODER_SHARE
        width = decoder.hidden_size
        self.umt = UMTModel(config)
        self.bridge = nn.Linear(config.hidden_size, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(width))  # hidden tokens differ by their positions
        self.decoder_layers = nn.ModuleList([UMTLayer(decoder) for _ in range(DECODER_LAYERS)])
        self.decoder_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, config.num_channels * config.tubelet_size * config.patch_size**2)
        table = position_table(config.token_grid, width, config.position_grid)
        self.register_buffer("decoder_positions", table, persistent=False)  # (N, width)
        self.post_init()

    def forward(self, pixel_values_videos: torch.Tensor, visible_indices: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar: the mean squared error of the hidden patches.

        Args:
            pixel_values_videos: (B, T, C, height, width), normalised.
            visible_indices: int64 (B, V), ascending.
        """
        num_tokens = len(self.decoder_positions)
        hidden = mask_from_visible_indices(visible_indices, num_tokens)  # (B, N)
        encoded = self.umt(pixel_values_videos, visible_indices=visible_indices).last_hidden_state
        states = self.bridge(encoded)  # (B, V, width)
        whole = self.mask_token.to(states.dtype).expand(len(states), num_tokens, -1)
        whole = whole.scatter(1, visible_indices[..., None].expand_as(states), states)
        whole = whole + self.decoder_positions.to(states.dtype)
        for layer in self.decoder_layers:
            whole = layer(whole)
        predicted = self.head(self.decoder_norm(whole[hidden]))  # (B * H, channels * P)
        return F.mse_loss(predicted.float(), normalised_patches(pixel_values_videos, self.config)[hidden])


class PixelReconstructionTrainer(UMTTrainer):
    """Trains a `PixelReconstruction` under tube masks drawn from each clip's own seed.

    Args are those of `UMTTrainer`; `args` is a `UMTPreTrainingArguments`, of whose masks only `mask_ratio` counts.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips = self.pixel_values(inputs["pixel_values_videos"])
        frames, rows, columns = self.model.config.token_grid
        grid = clips.new_empty(len(clips), frames, rows * columns)  # a tube asks for its shape alone
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
    """The trainer that stands beside `tiny_runs.pretraining_trainer`: as many views a step, one of each clip, at the
    same rate and schedule.

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
