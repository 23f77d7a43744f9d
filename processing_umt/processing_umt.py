"""Processor of the video-text models (UMT, arXiv 2303.16058, stage 2): `UMTVideoProcessor` and a BERT tokenizer.

Unusual: a text is encoded as `[CLS] tokens` without a final `[SEP]`, because the published models were trained with
such a tokenizer; a stock BERT tokenizer changes every text feature. The tokenizer is a plain `PreTrainedTokenizerFast`
with its own template, which survives saving: a `BertTokenizer` restores its default template when loaded. Captions and
questions are cleaned first (`caption_cleaning_umt`) and always padded to one length. Answers are not cleaned and end
in `[SEP]`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack

from .caption_cleaning_umt import clean_caption
from .file_names_umt import require_no_file_names
from .text_inspection_umt import TextCounts, count_texts
from .video_features_umt import UMTVideoFeatures
from .video_processing_umt import UMTVideoProcessor, UMTVideoProcessorKwargs

_TEXTS_AT_ONCE = 10_000  # that are inspected


class UMTTextKwargs(TextKwargs, total=False):
    """Options of texts: those of a tokenizer, and `refuse_file_names`, for callers that tell texts from videos by the
    type and the name of an input: a text that is the name of a video or image is an error."""

    refuse_file_names: bool | None


class UMTProcessorKwargs(ProcessingKwargs, total=False):
    """Options of a call: those of `UMTVideoProcessor` (`videos_kwargs`) and of the tokenizer (`text_kwargs`), nested
    or as plain keyword arguments."""

    text_kwargs: UMTTextKwargs
    videos_kwargs: UMTVideoProcessorKwargs
    _defaults = {"text_kwargs": {"padding": "max_length", "truncation": True}}


class UMTProcessor(ProcessorMixin):
    r"""Turns videos or images into `pixel_values_videos`, and captions or questions into `input_ids` and
    `attention_mask`.

    Args:
        video_processor ([`UMTVideoProcessor`]): see there for its options.
        tokenizer (`PreTrainedTokenizerFast`): tokenizer without a `[SEP]` at the end of a text, see `from_bert`.
        max_text_length (`int`, defaults to 32): Number of tokens of a caption or question, including `[CLS]`; longer
            texts are truncated, shorter ones padded. 32 in stage 2; the published downstream models use 25 to 150.
        max_answer_length (`int`, defaults to 5): Number of tokens of an answer, see `encode_answers`.

    Raises:
        ValueError: the tokenizer does not start a text with `[CLS]`, or adds a `[SEP]`.

    Example:

    ```python
    >>> from processing_umt import UMTProcessor

    >>> processor = UMTProcessor.from_bert("bert-base-uncased")
    >>> inputs = processor(text=["a dog runs", "a cat sleeps"], videos="clip.mp4", return_tensors="pt")
    ```
    """

    valid_processor_kwargs = UMTProcessorKwargs

    def __init__(self, video_processor=None, tokenizer=None, max_text_length: int = 32, max_answer_length: int = 5):
        super().__init__(video_processor, tokenizer)
        start, end = tokenizer.cls_token, tokenizer.sep_token
        if start is None or end is None:
            raise ValueError(
                f"The tokenizer must have a cls_token and a sep_token; this one has {start!r} and {end!r}. Create one "
                "with `UMTProcessor.from_bert`."
            )
        ids = tokenizer("a").input_ids
        if ids[:1] != [tokenizer.cls_token_id] or tokenizer.sep_token_id in ids:
            raise ValueError(
                f"The tokenizer must encode a text as its cls_token {start} and its tokens, without {end} at the end; "
                f"this one encodes 'a' as {tokenizer.convert_ids_to_tokens(ids)}. Create one with "
                "`UMTProcessor.from_bert`."
            )
        self.max_text_length = max_text_length
        self.max_answer_length = max_answer_length

    @classmethod
    def from_bert(
        cls,
        bert: str | os.PathLike | PreTrainedTokenizerBase,
        *,
        num_frames: int = 4,
        image_size: int = 224,
        max_text_length: int = 32,
        **video_options: Any,
    ) -> "UMTProcessor":
        """Creates the processor of a stage-2 model with BERT's vocabulary. A clip consists of the middle frame of each
        of `num_frames` intervals, resized to a square, without a crop, by bicubic interpolation without antialias.

        Args:
            bert: Hub id or folder of a BERT model (`bert-base-uncased`), its `vocab.txt`, or its tokenizer.
            num_frames: Number of frames of a clip; 4 in stage 2, 12 in the published downstream models.
            image_size: Side length of a frame in pixels.
            max_text_length: Number of tokens of a text.
            video_options: Any other option of [`UMTVideoProcessor`].

        Raises:
            OSError: the tokenizer does not exist.
        """
        options = {
            "num_frames": num_frames,
            "sampling": "middle",
            "size": {"height": image_size, "width": image_size},
            "crop_size": {"height": image_size, "width": image_size},
            "do_center_crop": False,
            "resample": PILImageResampling.BICUBIC,
            "resize_kernel": "bicubic_no_antialias",
        }
        return cls(UMTVideoProcessor(**options | video_options), without_sep(bert), max_text_length=max_text_length)

    def __call__(
        self, images=None, text: str | Sequence[str] | None = None, videos=None, **kwargs: Unpack[UMTProcessorKwargs]
    ) -> UMTVideoFeatures:
        """Processes videos or images, texts, or both.

        Args:
            images: An image or a list of images, each a video of one frame.
            text: A caption or question, or a list of them; cleaned, then truncated or padded to `max_text_length`
                (`max_length=` in a call).
            videos: See [`UMTVideoProcessor.preprocess`]. A list of images is one video.
            kwargs: Options of a call, see [`UMTProcessorKwargs`].

        Returns:
            `pixel_values_videos (views, frames, channels, height, width)`; `input_ids` and `attention_mask
            (texts, max_length)`. `video_indices` and `errors` of the video processor as attributes.

        Raises:
            ValueError: no input, both images and videos, texts that are not strings, or an unknown option.
            VideoDecodeError: see [`UMTVideoProcessor.preprocess`].
        """
        if images is None and text is None and videos is None:
            raise ValueError("UMTProcessor was called without inputs; pass `text`, `videos` or `images`.")
        if images is not None and videos is not None:
            raise ValueError("Both `images` and `videos` were given; they are separate batches, so call twice.")
        self._check_options(kwargs)
        options = self._merge_kwargs(UMTProcessorKwargs, tokenizer_init_kwargs={}, **kwargs)

        data, video_indices, errors = {}, [], []
        refuse_file_names = options["text_kwargs"].pop("refuse_file_names", False)
        if text is not None:
            texts = _list_texts(text)
            if refuse_file_names:
                require_no_file_names(texts)
            data |= self._encode([clean_caption(caption) for caption in texts], options["text_kwargs"])
        if images is not None:
            videos = [[image] for image in (images if isinstance(images, (list, tuple)) else [images])]
            options["videos_kwargs"]["num_frames"] = 1
        if videos is not None:
            features = self.video_processor(videos, **options["videos_kwargs"])
            data |= features
            video_indices, errors = features.video_indices, features.errors
        return UMTVideoFeatures(data, None, video_indices, errors)

    def encode_answers(self, answers: str | Sequence[str], **kwargs) -> UMTVideoFeatures:
        """Encodes answers for the answer decoder: `[CLS] tokens [SEP]`, not cleaned, at most `max_answer_length`
        tokens. Truncation removes the `[SEP]` of a longer answer, as in the official code.

        Args:
            answers: an answer or a list of answers.
            kwargs: options of the tokenizer: `max_length`, `padding`, `return_tensors` …

        Returns:
            `input_ids` and `attention_mask`, `(answers, max_answer_length)`.
        """
        options = {"padding": "max_length", "truncation": True, "max_length": self.max_answer_length} | kwargs
        texts = [f"{answer} {self.tokenizer.sep_token}" for answer in _list_texts(answers)]
        return UMTVideoFeatures(self._encode(texts, options))

    def inspect_texts(self, texts: str | Sequence[str], max_length: int | None = None) -> TextCounts:
        """What is left of captions or questions when they are encoded: see [`TextCounts`].

        Args:
            texts: A text or a list of texts.
            max_length: Number of tokens of a text; default: `max_text_length`.
        """
        texts = _list_texts(texts)
        return self._count([clean_caption(text) for text in texts], texts, max_length or self.max_text_length)

    def inspect_answers(self, answers: str | Sequence[str]) -> TextCounts:
        """What is left of answers when they are encoded by `encode_answers`: see [`TextCounts`].

        Args:
            answers: An answer or a list of answers.
        """
        answers = _list_texts(answers)
        return self._count(answers, answers, self.max_answer_length)

    def _count(self, cleaned: list[str], texts: list[str], max_length: int) -> TextCounts:
        tokenizer = self.tokenizer
        special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
        encoded = (
            ids
            for start in range(0, len(cleaned), _TEXTS_AT_ONCE)
            for ids in tokenizer(cleaned[start : start + _TEXTS_AT_ONCE], verbose=False)["input_ids"]
        )
        return count_texts(texts, encoded, max_length, special, tokenizer.unk_token_id)

    def _encode(self, texts: list[str], options: dict[str, Any]) -> dict[str, Any]:
        options = {"max_length": self.max_text_length, "return_token_type_ids": False} | options
        return dict(self.tokenizer(texts, **options))

    def _check_options(self, kwargs: dict[str, Any]) -> None:
        """Raises a ValueError for an unknown option, which Transformers would ignore with a warning."""
        kinds = UMTProcessorKwargs.__annotations__
        known = set(kinds) | {"common_kwargs"}
        known |= {name for kind in kinds.values() for name in getattr(kind, "__annotations__", ())}
        if unknown := sorted(kwargs.keys() - known):
            raise ValueError(
                f"UMTProcessor has no option {', '.join(unknown)}; its options are those of UMTVideoProcessor and of "
                "a tokenizer."
            )


def without_sep(bert: str | os.PathLike | PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """BERT's tokenizer without the final `[SEP]`: a text is `[CLS] tokens`; vocabulary and normaliser are unchanged.

    Args:
        bert: see [`UMTProcessor.from_bert`].
    """
    if isinstance(bert, (str, os.PathLike)):
        if os.path.isfile(bert):
            tokens = Path(bert).read_text(encoding="utf-8").split("\n")
            tokens = tokens[:-1] if tokens[-1] == "" else tokens
            bert = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, model_max_length=512)
        else:
            bert = BertTokenizer.from_pretrained(bert)
    backend = Tokenizer.from_str(bert.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(
        single=f"{bert.cls_token} $A",
        pair=f"{bert.cls_token} $A $B",
        special_tokens=[(bert.cls_token, bert.cls_token_id)],
    )
    backend.no_padding()
    backend.no_truncation()
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=bert.model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        **{name: getattr(bert, name) for name in names},
    )


def _list_texts(text: str | Sequence[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    if not texts or not all(isinstance(item, str) for item in texts):
        raise ValueError(f"Texts must be a string or a list of at least one string; got {str(text)[:80]!r}.")
    return texts
