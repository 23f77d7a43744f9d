"""`pipeline("zero-shot-video-classification")`: classification into labels given as texts, by stage 2's dual encoder
(arXiv 2303.16058, section 3.3).

The conventions are those of Transformers' zero-shot image classification, `candidate_labels` and
`hypothesis_template`; Transformers has no such task for videos. With several templates the vector of a label is the
mean of its texts' unit vectors, normalised again, as CLIP's authors do. Texts are encoded once for all videos.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from .modeling_umt_video_text import TEMPERATURE_RANGE, mean_of_unit_vectors, similarity_over_temperature
from .vocabulary_umt import require_vocabulary

logger = logging.get_logger(__name__)


class UMTZeroShotVideoClassificationPipeline(Pipeline):
    """Classifies videos into labels given as texts.

    The input is a video or a list of videos in the processor's forms: paths, URLs, bytes, arrays.

    Args:
        candidate_labels (`list[str]`): The class names. A single label is a list of one.
        hypothesis_template (`str` or `list[str]`, defaults to `"a video of {}"`): Template of a label's text; several
            are averaged. `"{}"` for labels that are complete texts.

    Returns:
        For each video a list of `{"score", "label"}`, highest score first; the scores sum to 1.

    Raises:
        ValueError: if labels are missing, one text instead of a list, without a word (empty, punctuation only), all
            unknown to the vocabulary or all equal to the model; a template has no `{}`; an option is unknown; or the
            processor has another vocabulary than the model. A part of the labels that is unknown, cut, or equal to
            another is stated in a warning.

    Example:

    ```python
    >>> import modeling_umt
    >>> from transformers import pipeline

    >>> classifier = pipeline("zero-shot-video-classification", model="umt-l16-25m")
    >>> classifier("clip.mp4", candidate_labels=["playing tennis", "riding a horse"])
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        require_vocabulary(self.model.config, self.processor.tokenizer, self.model.name_or_path)

    def _sanitize_parameters(
        self,
        candidate_labels: Sequence[str] | None = None,
        hypothesis_template: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        if kwargs:
            raise ValueError(
                f"Unknown options: {', '.join(kwargs)}; choose `candidate_labels` or `hypothesis_template`."
            )
        texts = {}
        if isinstance(candidate_labels, str):
            raise ValueError(
                f"`candidate_labels` is the text {candidate_labels!r}; expected a list of labels, such as "
                f"{candidate_labels.split(', ')!r}."
            )
        if candidate_labels is not None:
            texts["candidate_labels"] = tuple(candidate_labels)
        if hypothesis_template is not None:
            is_one = isinstance(hypothesis_template, str)
            texts["templates"] = (hypothesis_template,) if is_one else tuple(hypothesis_template)
        return {}, texts, {name: value for name, value in texts.items() if name == "candidate_labels"}

    def save_pretrained(self, save_directory, **kwargs: Any) -> None:
        """As Transformers does, and the processor, which Transformers does not save."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def preprocess(self, video: Any) -> dict[str, torch.Tensor]:
        # one view, whatever the saved processor's settings
        inputs = self.processor(videos=video, num_clips=1, num_crops=1, return_tensors="pt")
        return {"pixel_values_videos": inputs["pixel_values_videos"]}

    def _forward(
        self,
        inputs: dict[str, torch.Tensor],
        candidate_labels: tuple[str, ...] = (),
        templates: tuple[str, ...] = ("a video of {}",),
    ) -> dict[str, torch.Tensor]:
        clips = inputs["pixel_values_videos"].to(self.model.dtype)
        frames = self.model.get_video_features(clips, return_dict=True).pooler_output
        labels = self.label_vectors(candidate_labels, templates)
        temperature = self.model.temperature.clamp(*TEMPERATURE_RANGE)
        logits = similarity_over_temperature(mean_of_unit_vectors(frames), labels, temperature)  # (videos, labels)
        return {"logits": logits}

    def label_vectors(self, candidate_labels: tuple[str, ...], templates: tuple[str, ...]) -> torch.Tensor:
        """Unit vectors `(labels, projection_dim)`; those of the last call are cached."""
        if not candidate_labels or not all(isinstance(label, str) and label.strip() for label in candidate_labels):
            raise ValueError(
                f"`candidate_labels` must contain at least one label and no empty one, but are {candidate_labels!r}."
            )
        if not templates or not all("{}" in template for template in templates):
            raise ValueError(f"`hypothesis_template` must contain {{}} for the label, but is {templates!r}.")
        key = (candidate_labels, templates)
        if getattr(self, "_encoded", (None,))[0] != key:
            self._inspect_labels(candidate_labels, templates)
            texts = [template.replace("{}", label) for label in candidate_labels for template in templates]
            inputs = self.processor(text=texts, return_tensors="pt").to(self.model.device)
            encoded = self.model.get_text_features(inputs["input_ids"], inputs["attention_mask"], return_dict=True)
            vectors = encoded.pooler_output
            vectors = F.normalize(vectors, dim=-1).unflatten(0, (-1, len(templates))).mean(dim=1)
            self._encoded = key, F.normalize(vectors, dim=-1)
        return self._encoded[1]

    def _inspect_labels(self, candidate_labels: tuple[str, ...], templates: tuple[str, ...]) -> None:
        """Refuses labels that can't be meant, and warns of those that the model can't read or tell apart."""
        counts = self.processor.inspect_texts(candidate_labels)
        counts.require_meaning("`candidate_labels`")
        if counts.empty:
            empty = [label for label in candidate_labels if self.processor.inspect_texts(label).empty]
            raise ValueError(f"`candidate_labels` have labels without a word: {empty!r}. Write them in words.")
        for template in templates:
            in_template = self.processor.inspect_texts([template.replace("{}", label) for label in candidate_labels])
            in_template.require_meaning(f"`candidate_labels` in {template!r}")
            counts = replace(counts, cut=max(counts.cut, in_template.cut), equal=max(counts.equal, in_template.equal))
        if (line := counts.describe("`candidate_labels`")) is not None:
            logger.warning(line)

    def postprocess(
        self, outputs: dict[str, torch.Tensor], candidate_labels: tuple[str, ...] = ()
    ) -> list[dict[str, Any]]:
        scores = outputs["logits"][0].float().softmax(dim=-1).tolist()
        pairs = sorted(zip(scores, candidate_labels, strict=True), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in pairs]


if "zero-shot-video-classification" not in PIPELINE_REGISTRY.supported_tasks:
    PIPELINE_REGISTRY.register_pipeline(
        "zero-shot-video-classification",
        pipeline_class=UMTZeroShotVideoClassificationPipeline,
        pt_model=AutoModel,
        type="multimodal",
    )

__all__ = ["UMTZeroShotVideoClassificationPipeline"]
