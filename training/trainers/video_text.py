"""Stage 2: four objectives on captioned videos and images (arXiv 2303.16058, section 3.3) as a Transformers Trainer.

Contrast, matching, masked language modelling and unmasked-token alignment; their weights are fields of the model's
configuration. The teacher is stage 1's. Images are clips of one frame, with a mask ratio of their own.

Unusual:
- The learning rate is absolute, not scaled by the batch, and the cosine ends on a floor.
- The contrast is among the clips of all processes. Its gradients are those of the whole batch in one process; the
  official code's, smaller by the number of processes for all but the temperature, are there by name
  (`contrastive_gradients="official"`), for who wants to repeat the published runs.
- Negative pairs and hidden words are functions of (seed, step, process), like all else that is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, PreTrainedModel

from ..cards.video_text_card import video_text_card
from ..data.video_dataset import collate_clips, mask_seed
from ..evaluation.retrieval_metrics import retrieval_recalls
from .absolute_learning_rate import AbsoluteLearningRateArguments, AbsoluteLearningRateMixin
from .activation_checkpointing import checkpoint_first_blocks
from .contrastive_gather import CONTRASTIVE_GRADIENTS
from .teacher_student import TeacherStudentTrainer, check_mask_type
from .teachers import check_teacher_fits

OBJECTIVES = ("vtc", "vtm", "mlm", "uta")
_DRAWING = 2**32 - 2  # stands for the epoch in the seeds of what the model draws, so that no clip's mask shares them


@dataclass
class UMTVideoTextArguments(AbsoluteLearningRateArguments):
    """Arguments of [`UMTVideoTextTrainer`]; the defaults are the published stage-2 recipes'.

    Args:
        mask_type: How visible tokens are chosen: `"attention"`, `"tube"` or `"random"`.
        mask_ratio, image_mask_ratio: Share of the tokens hidden, of videos and of images. Without a teacher nothing
            is hidden.
        contrastive_gradients: Over several processes: `"global"`, those of the whole batch, or `"official"`, divided
            by the number of processes.
    """

    num_train_epochs: float = 10.0
    mask_type: str = "attention"
    mask_ratio: float = 0.8
    image_mask_ratio: float = 0.5
    contrastive_gradients: str = "global"

    def __post_init__(self):
        super().__post_init__()
        check_mask_type(self.mask_type)
        if self.contrastive_gradients not in CONTRASTIVE_GRADIENTS:
            raise ValueError(
                f"`contrastive_gradients` must be one of {', '.join(CONTRASTIVE_GRADIENTS)}, but is "
                f"{self.contrastive_gradients!r}."
            )


class VideoTextCollator:
    """Batches of captioned clips, with the captions as token ids.

    Args:
        processor ([`UMTProcessor`]): cleans and tokenises.
    """

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """As `collate_clips`, with int64 `input_ids` and `attention_mask` `(batch, length)` instead of `caption`.

        Raises:
            ValueError: samples without a caption or `match_id`.
        """
        batch = collate_clips(samples)
        if "caption" not in batch or "match_ids" not in batch:
            raise ValueError(
                "Samples for stage 2 need a `caption` and a `match_id`; make their records with `CaptionedRecords` or "
                "`load_captioned_records`."
            )
        return batch | dict(self.processor(text=batch.pop("caption"), return_tensors="pt"))


class UMTVideoTextTrainer(AbsoluteLearningRateMixin, TeacherStudentTrainer):
    """Trains a [`UMTForVideoTextPreTraining`]; evaluation measures recall of videos by texts and of texts by videos.

    Args:
        model ([`UMTForVideoTextPreTraining`]): Its configuration's `vtc_weight`, `vtm_weight`, `mlm_weight` and
            `uta_weight` weigh the objectives; 0 turns one off.
        teacher: [`UMTTeacherModel`], or a module of the same interface; None where nothing is aligned and hidden.
        args ([`UMTVideoTextArguments`]).
        processing_class ([`UMTProcessor`]).
        token_selection (*optional*): A strategy in place of the one `mask_type` names.
        kwargs: Everything else that `transformers.Trainer` takes. Data sets are of `CaptionedRecords`, the one for
            training possibly of images and videos in turn (`AlternatingClips`).

    Raises:
        ValueError: if the teacher does not fit the student, or `uta_weight` is positive without a teacher, or 0 with
            one.
    """

    model_card = staticmethod(video_text_card)

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: nn.Module | None,
        args: UMTVideoTextArguments,
        processing_class,
        token_selection: Callable | None = None,
        data_collator: Callable | None = None,
        compute_metrics: Callable | None = None,
        **kwargs,
    ):
        if (model.config.uta_weight > 0) != (teacher is not None):
            raise ValueError(
                f"`uta_weight` of the model is {model.config.uta_weight:g}, and "
                f"{'no teacher is' if teacher is None else 'a teacher is'} given: unmasked-token alignment needs a "
                "teacher and a positive weight. For neither, give `teacher=None` and `uta_weight=0`."
            )
        if teacher is not None:
            check_teacher_fits(model.config.vision_config, teacher.config)
        if min(model.config.vtc_weight, model.config.vtm_weight) == 0:
            args.ddp_find_unused_parameters = True  # projections, or fusion layers and their head, get no gradient
        if args.checkpoint_text:
            checkpoint_first_blocks(model.video_text.text_model, model.config.text_config.num_hidden_layers)
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
                "Stage 2 and retrieval can't be trained under FSDP, which takes no scalar parameter such as the "
                "temperature: leave `fsdp` out, and every GPU holds the whole model."
            )
        if self.args.world_size > 1:
            model.gather_embeddings = CONTRASTIVE_GRADIENTS[self.args.contrastive_gradients]
        self.losses: dict[str, list[torch.Tensor]] = {}  # of each objective, since the last log line

    # --- optimisation --------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.accelerator.unwrap_model(model).clamp_temperature()
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
                self.losses.setdefault(f"loss_{name}", []).append(loss.detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def batch_generator(self) -> torch.Generator:
        """Source of what the model draws for a micro-batch: a function of seed, step, micro-batch and process."""
        args = self.args
        number = self.state.global_step * args.gradient_accumulation_steps + len(self.guard.micro_batches)
        seed = mask_seed(args.seed, _DRAWING, number * args.world_size + args.process_index)
        return torch.Generator(args.device).manual_seed(seed)

    # --- what is said of it --------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The line of every UMT trainer, with each objective's loss and the temperature; means over processes."""
        if "loss" in logs:
            for name, losses in self.losses.items():
                values = torch.stack(losses).float()
                is_finite = values.isfinite()
                mean = values.where(is_finite, 0.0).sum() / is_finite.sum().clamp(min=1)
                logs[name] = self.accelerator.reduce(mean, reduction="mean").item()
            self.losses.clear()
            logs["temperature"] = self.model.video_text.temperature.item()
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The embeddings of clips and captions, nothing hidden, and which belong together, for `compute_metrics`."""
        for name, reason in inputs.pop("broken", []):
            print(f"evaluation: {name} cannot be read ({reason}); another video stands in for it", flush=True)
        inputs = self._prepare_inputs(inputs)
        # accelerate has put its autocast around the model's own forward, which is not called here
        with torch.no_grad(), self.accelerator.autocast():
            outputs = self.accelerator.unwrap_model(model).video_text(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                pixel_values_videos=self.pixel_values(inputs["pixel_values_videos"]),
            )
        embeddings = (outputs.video_embeds.float(), outputs.text_embeds.float())
        return None, embeddings, inputs["match_ids"]


def recall_both_ways(prediction: EvalPrediction) -> dict[str, float]:
    """Recall by cosines, see `retrieval_recalls`, from the embeddings of pairs `(pairs, E)` each and the pairs'
    `match_ids`. Pairs of one number are taken for one video with several captions, and the video counts once."""
    video_embeds, text_embeds = prediction.predictions
    _, first = np.unique(prediction.label_ids, return_index=True)
    scores = video_embeds[first] @ text_embeds.T  # (videos, texts)
    match = prediction.label_ids[first][:, None] == prediction.label_ids[None, :]
    return retrieval_recalls(scores, scores.T, match)
