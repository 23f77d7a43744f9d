"""UMT for action detection (AVA, AVA-Kinetics): several actions of every person in a key frame.

The encoder's tokens are normed, averaged over the frames of the clip, and pooled inside each person's box; a linear
layer gives one logit per class, and the classes of a person do not exclude each other. The persons' boxes are inputs:
they come from annotations or from any person detector.

Unusual: boxes are inclusive corners, and RoIAlign gets them without the half-cell shift of later detectors
(`aligned=False`), as the published models were trained.

Shape legend: B batch, P boxes per clip (padded), H and W rows and columns of tokens, D hidden size.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import (
    ModelOutput,
    TransformersKwargs,
    can_return_tuple,
    is_torchvision_available,
    requires_backends,
)

from .configuration_checks_umt import require_all_tokens
from .configuration_umt import UMTConfig
from .keyword_arguments_umt import only_documented_keywords
from .modeling_umt import UMTModel, UMTPreTrainedModel, with_final_norm

# guarded, because the code of a repository is imported where torchvision may be missing
if is_torchvision_available():
    from torchvision.ops import roi_align

BINS = 7  # per axis, into which RoIAlign divides a box


@dataclass
class UMTActionDetectionOutput(ModelOutput):
    """Output of [`UMTForActionDetection`].

    Args:
        loss (scalar): If `labels` were given: the sum over all boxes of the mean binary cross-entropy over classes; 0
            for a batch without boxes.
        logits (`(batch, boxes, num_labels)`): One per box and class; the sigmoid of each is a probability of its own.
            Rows of padded boxes have no meaning.
        hidden_states: With `output_hidden_states=True`: embeddings and every block's output, (batch, tokens,
            hidden_size) each.
        attentions: With `output_attentions=True` and eager attention: (batch, heads, tokens, tokens) per block.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTForActionDetection(UMTPreTrainedModel):
    """UMT with a multi-label classifier on the features of given boxes (the official model for AVA).

    Raises:
        ImportError: if torchvision, which contains RoIAlign, is not installed.
        ValueError: if the configuration drops tokens (`motion_drop_ratio`), because boxes are pooled from all of them.
    """

    remote_code = UMTPreTrainedModel.remote_code | {
        "AutoModelForObjectDetection": "modeling_umt_action_detection.UMTForActionDetection"
    }
    embedding_methods = {}  # the processor needs a key frame of each video
    # a classifier's repository contains the norm of the mean, a stage-1 repository the decoders
    _keys_to_ignore_on_load_unexpected = [r"^umt\.fc_norm\.", r"^(attention|frame)_pooling\.", r"^decoders\."]

    def __init__(self, config: UMTConfig):
        requires_backends(self, "torchvision")
        require_all_tokens(config, "Action detection")
        super().__init__(with_final_norm(config, "tokens"))
        self.umt = UMTModel(self.config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            # officially trunc_normal(0.02) times `init_scale` 0.001, so that fresh logits are close to zero
            init.trunc_normal_(module.weight, std=0.001 * self.config.initializer_range)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @only_documented_keywords
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        boxes: torch.Tensor,
        box_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTActionDetectionOutput:
        """Logits of the actions inside each box.

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): Clips around one key frame each, of any
                size that `patch_size` divides; clips of different sizes are padded at the bottom and right. Padding is
                seen by attention, so the logits of a padded clip depend on its size.
            boxes (float32 `(batch, boxes, 4)`): Inclusive corners x1, y1, x2, y2 in pixels of the (padded) clip. Clips
                with fewer boxes are padded with any values.
            box_mask (bool `(batch, boxes)`, *optional*): True for a box, False for padding. Defaults to all True.
            labels (`(batch, boxes, num_labels)`, *optional*): 1 for the actions of a box, 0 for the others; with them
                the loss is returned too.

        Raises:
            ValueError: if the clips do not fit the model, or boxes, mask or labels do not fit the clips.
        """
        grid = self.umt.embeddings.token_grid(pixel_values_videos)
        num_clips = pixel_values_videos.shape[0]
        if boxes.ndim != 3 or boxes.shape[0] != num_clips or boxes.shape[2] != 4:
            raise ValueError(
                f"`boxes` must be (batch {num_clips}, boxes, 4 corners), but is {tuple(boxes.shape)}. Pad the boxes "
                "of a batch to the same number, and mark the padding in `box_mask`."
            )
        shape = tuple(boxes.shape[:2])
        if box_mask is not None and (box_mask.shape != shape or box_mask.dtype != torch.bool):
            raise ValueError(
                f"`box_mask` must be bool (batch, boxes) = {shape}, but is {box_mask.dtype} {tuple(box_mask.shape)}."
            )
        if labels is not None and labels.shape != (*shape, self.config.num_labels):
            raise ValueError(
                "`labels` must be 0 or 1 for every class, (batch, boxes, num_labels) = "
                f"{(*shape, self.config.num_labels)}, but is {tuple(labels.shape)}."
            )

        require_all_tokens(self.config, "Action detection")
        outputs = self.umt(pixel_values_videos, return_dict=True, **kwargs)
        tokens = outputs.last_hidden_state
        feature_map = tokens.unflatten(1, grid).float().mean(dim=1).permute(0, 3, 1, 2)  # (B, D, H, W)
        boxes = boxes.float()
        if box_mask is not None:
            # padding may be anything, and RoIAlign takes more time for larger boxes
            boxes = boxes.masked_fill(~box_mask[..., None], 0.0)
        pooled = pool_boxes(feature_map, boxes, self.config.patch_size)  # (B, P, D)
        logits = self.classifier(pooled.to(tokens.dtype))
        loss = None if labels is None else action_detection_loss(logits, labels, box_mask)
        return UMTActionDetectionOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def pool_boxes(feature_map: torch.Tensor, boxes: torch.Tensor, patch_size: int) -> torch.Tensor:
    """The largest of the RoIAlign features of each box, (B, P, D).

    Float32 in and out: RoIAlign has no bfloat16 on the CPU, and an error of 5e-3 in float16.

    Args:
        feature_map (float32 `(B, D, H, W)`): One cell for each patch.
        boxes (float32 `(B, P, 4)`): Corners in pixels.
        patch_size: Side of a cell in pixels.
    """
    num_clips, num_boxes, _ = boxes.shape
    clips = torch.arange(num_clips, device=boxes.device, dtype=boxes.dtype)[:, None, None]
    rows = torch.cat([clips.expand(-1, num_boxes, -1), boxes], dim=-1).flatten(0, 1)  # (B * P, 5)
    bins = roi_align(
        feature_map, rows, output_size=BINS, spatial_scale=1 / patch_size, sampling_ratio=0, aligned=False
    )  # (B * P, D, 7, 7)
    return bins.flatten(2).max(dim=-1).values.unflatten(0, (num_clips, num_boxes))


def action_detection_loss(
    logits: torch.Tensor, labels: torch.Tensor, box_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over boxes of the mean over classes of the binary cross-entropy, in float32; 0 without boxes.

    Args:
        logits, labels (`(batch, boxes, num_labels)`).
        box_mask (bool `(batch, boxes)`, *optional*): False excludes a box.
    """
    labels = labels.float()
    if box_mask is not None:
        labels = labels.masked_fill(~box_mask[..., None], 0.0)
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").mean(dim=-1)
    if box_mask is not None:
        losses = losses.masked_fill(~box_mask, 0.0)
    return losses.sum()


__all__ = ["UMTActionDetectionOutput", "UMTForActionDetection"]
