"""Stage 2: four objectives on captioned videos and images (arXiv 2303.16058, section 3.3) as a Transformers Trainer.

The objectives are contrast, matching, masked language modelling and unmasked-token alignment; their weights are fields
of the model's configuration. The teacher is that of stage 1. Images are clips of one frame with their own mask ratio.

Unusual:
- The learning rate is absolute, not scaled by the batch, and the cosine ends on a floor.
- The contrast is computed over the clips of all processes. Its gradients equal those of the entire batch in one
  process. The official code divides all of them but the temperature's by the number of processes;
  `contrastive_gradients="official"` does the same, to reproduce the published runs.
- Negative pairs and masked tokens are functions of (seed, step, process), like all random choices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, PreTrainedModel

from modeling_umt.vocabulary_umt import record_vocabulary
from processing_umt import UMTProcessor

from ..cards.trainer_card import CardSections
from ..cards.video_text_card import video_text_sections
from ..data.video_dataset import collate_clips, mask_seed
from ..evaluation.retrieval_metrics import retrieval_metrics
from .absolute_learning_rate import AbsoluteLearningRateArguments, AbsoluteLearningRateMixin
from .activation_checkpointing import checkpoint_first_blocks
from .contrastive_gather import CONTRASTIVE_GRADIENTS
from .loss_parts import LossParts
from .teacher_student import MOTION, TOKEN_SELECTIONS, TeacherStudentTrainer, check_mask_type
from .teachers import check_teacher_fits

OBJECTIVES = ("vtc", "vtm", "mlm", "uta")
_SAMPLING_EPOCH = 2**32 - 2  # in the seeds of the model's random choices, which therefore differ from those of masks


@dataclass
class UMTVideoTextArguments(AbsoluteLearningRateArguments):
    """Arguments of [`UMTVideoTextTrainer`]. The defaults are those of the published stage-2 recipes.

    Args:
        mask_type: Token selection: `"attention"`, `"clip_attention"`, `"tube"` or `"random"`.
        mask_ratio, image_mask_ratio: Fraction of the tokens hidden, of videos and of images. Without a teacher all
            tokens are visible.
        contrastive_gradients: With several processes: `"global"`, the gradients of the entire batch, or `"official"`,
            divided by the number of processes.
    """

    ranges: ClassVar[dict[str, str]] = AbsoluteLearningRateArguments.ranges | {
        "mask_ratio": "[0, 1)",
        "image_mask_ratio": "[0, 1)",
    }

    num_train_epochs: float = 10.0
    mask_type: str = "attention"
    mask_ratio: float = 0.8
    image_mask_ratio: float = 0.5
    contrastive_gradients: str = "global"

    def __post_init__(self):
        super().__post_init__()
        check_mask_type(self.mask_type)
        if self.mask_type == MOTION:
            raise ValueError(
                f"`mask_type` 'motion' compares time steps, which the images of stage 2 do not have; choose one of "
                f"{', '.join(TOKEN_SELECTIONS)}."
            )
        if self.contrastive_gradients not in CONTRASTIVE_GRADIENTS:
            raise ValueError(
                f"`contrastive_gradients` must be one of {', '.join(CONTRASTIVE_GRADIENTS)}, but is "
                f"{self.contrastive_gradients!r}."
            )


class VideoTextCollator:
    """Collates captioned clips, with the captions as token ids.

    Args:
        processor ([`UMTProcessor`]): Cleans and tokenises the captions.
    """

    def __init__(self, processor: UMTProcessor):
        self.processor = processor

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `collate_clips` with int64 `input_ids` and `attention_mask` `(batch, length)` in place of
        `caption`.

        Raises:
            ValueError: if the samples have no caption or no `match_id`.
        """
        batch = collate_clips(samples)
        if "caption" not in batch or "match_ids" not in batch:
            raise ValueError(
                "Samples for stage 2 need a `caption` and a `match_id`; load their records with `CaptionedRecords` or "
                "`load_captioned_records`."
            )
        return batch | dict(self.processor(text=batch.pop("caption"), return_tensors="pt"))


class UMTVideoTextTrainer(AbsoluteLearningRateMixin, TeacherStudentTrainer):
    """Trains a [`UMTForVideoTextPreTraining`]. Evaluation measures text-to-video and video-to-text recall.

    Args:
        model ([`UMTForVideoTextPreTraining`]): The model; the `vtc_weight`, `vtm_weight`, `mlm_weight` and
            `uta_weight` of its configuration are the weights of the objectives, 0 for none.
        teacher: [`UMTTeacherModel`], or a module with the same interface; None without alignment and masks.
        args ([`UMTVideoTextArguments`]): The training arguments.
        processing_class ([`UMTProcessor`]): Cleans and tokenises the captions; None with a `data_collator` whose
            batches contain tokens.
        token_selection (*optional*): Replaces the token selection of `mask_type`.
        kwargs: Further arguments of [`UMTTrainer`]. The records of the data sets are `CaptionedRecords`; the training
            data may alternate between images and videos (`AlternatingClips`).

    Raises:
        ValueError: if teacher and student do not fit, if `uta_weight` is positive without a teacher, or if it is 0
            with a teacher, or if the processor has another vocabulary than the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: nn.Module | None,
        args: UMTVideoTextArguments,
        processing_class: UMTProcessor | None,
        token_selection: Callable | None = None,
        data_collator: Callable | None = None,
        compute_metrics: Callable | None = None,
        **kwargs,
    ):
        if (model.config.uta_weight > 0) != (teacher is not None):
            raise ValueError(
                f"`uta_weight` of the model is {model.config.uta_weight:g}, and "
                f"{'no teacher is' if teacher is None else 'a teacher is'} given: unmasked-token alignment needs a "
                "teacher and a positive weight. To train without it, set `teacher=None` and `uta_weight=0`."
            )
        if teacher is not None:
            check_teacher_fits(model.config.vision_config, teacher.config)
        if processing_class is not None:
            record_vocabulary(model.config, processing_class.tokenizer)
        if min(model.config.vtc_weight, model.config.vtm_weight) == 0:
            args.ddp_find_unused_parameters = True  # projections, or fusion layers and their head, get no gradient
        if args.checkpoint_text:
            checkpoint_first_blocks(model.video_text.text_model)
        super().__init__(
            model=model,
            teacher=teacher,
            args=args,
            token_selection=token_selection,
            processing_class=processing_class,
            data_collator=data_collator or VideoTextCollator(processing_class),
            compute_metrics=compute_metrics or recall_both_ways,
            **kwargs,
        )
        if self.is_fsdp_enabled:
            raise ValueError(
                "Stage 2 and retrieval can't be trained under FSDP, which does not support scalar parameters such as "
                "the temperature: leave `fsdp` out, so that every GPU holds the entire model."
            )
        if self.args.world_size > 1:
            model.gather_embeddings = CONTRASTIVE_GRADIENTS[self.args.contrastive_gradients]
        self.loss_parts = LossParts(self.accelerator)

    # --- optimisation --------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.accelerator.unwrap_model(model).clamp_temperature()  # before every forward, as in the official code
        clips = self.pixel_values(inputs["pixel_values_videos"])
        visible_indices = targets = None
        if self.teacher is not None:
            ratio = self.args.image_mask_ratio if clips.shape[1] == 1 else self.args.mask_ratio
            with self.timer("teacher"):
                visible_indices, targets = self.compute_targets(clips, inputs["sample_seeds"], ratio)
        outputs = model(
            pixel_values_videos=clips,
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            match_ids=inputs["match_ids"],
            visible_indices=visible_indices,
            target_features=targets,
            generator=self.batch_generator(),
        )
        for name in OBJECTIVES:
            if (loss := outputs.get(f"loss_{name}")) is not None:
                self.loss_parts.add(f"loss_{name}", loss)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def batch_generator(self) -> torch.Generator:
        """The random generator of a micro-batch, seeded by (seed, step, micro-batch, process)."""
        args = self.args
        number = self.state.global_step * args.gradient_accumulation_steps + len(self.guard.micro_batches)
        seed = mask_seed(args.seed, _SAMPLING_EPOCH, number * args.world_size + args.process_index)
        return torch.Generator(args.device).manual_seed(seed)

    # --- logging and evaluation ----------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The log line of [`UMTTrainer`] with the temperature and the mean loss of each objective over processes."""
        if "loss" in logs:
            logs.update(self.loss_parts.collect())
            logs["temperature"] = self.model.video_text.temperature.item()
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The embeddings of clips, without masks, and captions, and their `match_ids`, for `compute_metrics`."""
        self.report_broken_videos(inputs)
        inputs = self._prepare_inputs(inputs)
        # accelerate wraps only the model's `forward` in autocast, which is not called here
        with torch.no_grad(), self.accelerator.autocast():
            outputs = self.accelerator.unwrap_model(model).video_text(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                pixel_values_videos=self.pixel_values(inputs["pixel_values_videos"]),
            )
        embeddings = (outputs.video_embeds.float(), outputs.text_embeds.float())
        return None, embeddings, inputs["match_ids"]

    def card_sections(self) -> CardSections:
        return video_text_sections(self)


def recall_both_ways(prediction: EvalPrediction) -> dict[str, float]:
    """Recall by cosine similarity in both directions, in percent and rounded to two decimals as in the official code.

    See `retrieval_metrics`; `chance_r1` is the recall at rank 1 of a random ranking.

    The predictions are the embeddings of both parts of the pairs, `(pairs, E)` each, the labels their `match_ids`.
    Pairs with the same id are treated as one video with several captions, which is counted once.
    """
    video_embeds, text_embeds = prediction.predictions
    _, first = np.unique(prediction.label_ids, return_index=True)
    scores = video_embeds[first] @ text_embeds.T  # (videos, texts)
    match = prediction.label_ids[first][:, None] == prediction.label_ids[None, :]
    metrics = retrieval_metrics(scores.T, scores, match)
    recalls = {name: value for name, value in metrics.items() if not name.endswith("_rank")}
    return {name: round(value, 2) for name, value in (recalls | {"chance_r1": 100 * float(match.mean())}).items()}
