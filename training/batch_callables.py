"""The steps of `umt embed` and `umt classify` as callables on batches, for `map_batches` of Ray Data and its like."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForVideoClassification, AutoVideoProcessor, PreTrainedModel

import modeling_umt  # noqa: F401 (registers the models)
from processing_umt import UMTVideoProcessor, VideoDecodeError

from .corpus.class_scores import ViewReader, class_scores
from .corpus.clip_vectors import clip_vectors
from .corpus.decoding import ReadVideo
from .corpus.engine import VideoOutputs, process_videos
from .corpus.runs import broken_video, has_rows
from .model_sources import CLASSIFIER, ENCODERS, PROCESSORS, has_file, read_model_config, require_architecture
from .search.window_vectors import vector_dimension
from .search.windows import WindowReader

_BYTES, _PATHS = "bytes", ("video", "path")  # columns of a batch


class _BatchCallable:
    """Runs a model on batches of videos. Pickled without the model, which is loaded for the first batch."""

    suitable: Sequence[str]
    purpose: str
    auto_class: Any

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 8,
        num_workers: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = "auto",
    ):
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size is {batch_size} and num_workers is {num_workers}; expected at least 1 and at least 0."
            )
        require_architecture(model, read_model_config(model), self.suitable, self.purpose)
        self.model, self.batch_size, self.num_workers = model, batch_size, num_workers
        self.device, self.dtype = device, dtype
        self._loaded: tuple[PreTrainedModel, UMTVideoProcessor, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def _reader(self, processor: UMTVideoProcessor) -> ReadVideo:
        raise NotImplementedError

    def _step(self, model: PreTrainedModel, clips: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _dimension(self, model: PreTrainedModel, processor: UMTVideoProcessor) -> int:
        """The dimension of the outputs of `_step`."""
        raise NotImplementedError

    def _run(self, batch: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The columns of a batch with `start`, `end` and `error`, and the outputs, float32 `(videos, dim)`; those of a
        broken video are NaN."""
        names, videos = _videos(batch)
        if self._loaded is None:
            self._loaded = self._load()
        model, processor, dimension = self._loaded
        options = {"batch_size": self.batch_size, "num_workers": self.num_workers}
        spans = np.full((len(videos), 2), np.nan)
        rows = np.full((len(videos), dimension), np.nan, np.float32)
        errors = np.full(len(videos), "", object)
        for outputs in process_videos(videos, self._reader(processor), self._step, model, **options):
            index = outputs.index
            if has_rows(outputs):
                spans[index], rows[index] = outputs.spans[0], outputs.outputs[0]
            if (broken := broken_video(names[index], _named(outputs, names), str(model.dtype))) is not None:
                errors[index] = broken.message
        columns = {name: np.asarray(values) for name, values in batch.items() if name != _BYTES}
        return columns | {"start": spans[:, 0], "end": spans[:, 1], "error": errors}, rows

    def _load(self) -> tuple[PreTrainedModel, UMTVideoProcessor, int]:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        model = self.auto_class.from_pretrained(self.model, dtype=self.dtype)
        if has_file(self.model, *PROCESSORS):
            processor = AutoVideoProcessor.from_pretrained(self.model)
        else:
            processor = UMTVideoProcessor.for_config(model.config)
        model = model.to(self.device or accelerator or "cpu").eval()
        return model, processor, self._dimension(model, processor)


class UMTBatchEmbedder(_BatchCallable):
    """Embeds a batch of videos as `umt embed` does: one vector for each video.

    It can be pickled: `map_batches` of Ray Data takes the class or an object of it. Each process loads the model for
    its first batch.

    Args:
        model: folder or Hub id of a UMT encoder, classifier or video-text model.
        batch_size: clips per batch of the model; default 8.
        num_workers: decoding processes of each object; default 0, which decodes in its own process.
        device: default: the accelerator if there is one.
        dtype: data type of the weights; default "auto", as saved.

    Raises:
        OSError: the model does not exist.
        ValueError: a model of another kind, or an option out of range.

    Example:

    ```python
    >>> import ray
    >>> from umt_training import UMTBatchEmbedder

    >>> videos = ray.data.from_items([{"video": path} for path in paths])
    >>> vectors = videos.map_batches(
    ...     UMTBatchEmbedder, fn_constructor_args=["umt-b16-k400"], batch_size=64, concurrency=8, num_gpus=1
    ... )
    >>> vectors.write_parquet("vectors")
    ```
    """

    suitable, purpose, auto_class = ENCODERS, "embed", AutoModel

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Embeds videos.

        Args:
            batch: columns of equal length: `bytes`, the content of video files, or `video` or `path`, their paths or
                URLs; others are kept.

        Returns:
            The columns of the batch without `bytes`, and `start` and `end` (float64, seconds), `embedding` (float32
            `(videos, dim)`) and `error`. `error` is empty, or the message of a broken video, whose numbers are NaN;
            a video of which only the end is missing has both.

        Raises:
            ValueError: the batch has no column of videos.
        """
        columns, vectors = self._run(batch)
        return columns | {"embedding": vectors}

    def _reader(self, processor: UMTVideoProcessor) -> ReadVideo:
        return WindowReader(processor, window=None)

    def _step(self, model: PreTrainedModel, clips: torch.Tensor) -> torch.Tensor:
        return clip_vectors(model, clips)

    def _dimension(self, model: PreTrainedModel, processor: UMTVideoProcessor) -> int:
        return vector_dimension(model, processor)


class UMTBatchClassifier(_BatchCallable):
    """Classifies a batch of videos as `umt classify` does.

    Args:
        model: folder or Hub id of a classifier.
        num_clips, num_crops: views of each video, whose probabilities are averaged; default: those of the processor.
        options: `batch_size`, `num_workers`, `device`, `dtype`, see [`UMTBatchEmbedder`].

    Raises:
        OSError: the model does not exist.
        ValueError: a model of another kind, or an option out of range.
    """

    suitable, purpose, auto_class = CLASSIFIER, "classify", AutoModelForVideoClassification

    def __init__(self, model: str, *, num_clips: int | None = None, num_crops: int | None = None, **options: Any):
        super().__init__(model, **options)
        views = {"num_clips": num_clips, "num_crops": num_crops}
        self.views = {name: number for name, number in views.items() if number is not None}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Classifies videos.

        Args:
            batch: see [`UMTBatchEmbedder`].

        Returns:
            The columns of the batch without `bytes`, and `start` and `end` (float64, seconds), `label` (the most
            likely one) and `score` (float32, its probability), `probabilities` (float32 `(videos, classes)`) and
            `error`. `error` is empty, or the message of a broken video, whose label is empty and whose numbers are
            NaN.

        Raises:
            ValueError: the batch has no column of videos.
        """
        columns, scores = self._run(batch)
        best = scores.argmax(axis=1)
        labels = self._loaded[0].config.id2label
        is_scored = ~np.isnan(scores).any(axis=1)
        names = [labels[index] if scored else "" for index, scored in zip(best.tolist(), is_scored, strict=True)]
        score = scores[np.arange(len(scores)), best]
        return columns | {"label": np.array(names, object), "score": score, "probabilities": scores}

    def _reader(self, processor: UMTVideoProcessor) -> ReadVideo:
        return ViewReader(processor, self.views)

    def _step(self, model: PreTrainedModel, clips: torch.Tensor) -> torch.Tensor:
        return class_scores(model, clips)

    def _dimension(self, model: PreTrainedModel, processor: UMTVideoProcessor) -> int:
        return model.config.num_labels


def _videos(batch: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Name, and path or content, of each video."""
    column = next((name for name in _PATHS if name in batch), None)
    if column is None and _BYTES not in batch:
        raise ValueError(
            f"A batch has the columns {', '.join(batch)}; expected paths in {' or '.join(_PATHS)}, or the content of "
            f"video files in {_BYTES}."
        )
    videos = list(batch[_BYTES if _BYTES in batch else column])
    if column is None:
        return [f"<{len(video)} bytes>" for video in videos], videos
    return [str(path) for path in batch[column]], videos


def _named(outputs: VideoOutputs, names: Sequence[str]) -> VideoOutputs:
    """Outputs of which the error names the video, whose content alone may have been given."""
    if outputs.error is None:
        return outputs
    error = VideoDecodeError(names[outputs.index], outputs.error.reason, outputs.error.detail)
    return VideoOutputs(outputs.index, outputs.spans, outputs.outputs, error)
