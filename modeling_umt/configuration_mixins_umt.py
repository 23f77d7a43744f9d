"""What the configurations of video encoders share: class names, and the sizes of clips in pixels and tokens."""

from transformers.utils import logging

from .configuration_checks_umt import height_width

logger = logging.get_logger(__name__)


class AgreeingLabels:
    """Mixin of the configurations of classifiers, whose `label2id` is always the inverse of `id2label`.

    It follows when `id2label` is changed, and is corrected, with a warning, in a file where the two disagree.
    """

    def __post_init__(self, **kwargs):
        given = self.label2id
        indices = given and integers(given)
        if (
            given
            and self.id2label is None
            and sorted(indices.values()) == list(range(kwargs.get("num_labels", len(given))))
        ):
            self.id2label = dict(enumerate(sorted(given, key=indices.get)))
        elif given and "num_labels" not in kwargs and indices != inverse(self.id2label or {}):
            logger.warning(
                "The configuration's `label2id` disagrees with its `id2label`; the names of `id2label` are used."
            )
        super().__post_init__(**kwargs)
        agrees = indices == inverse(self.id2label)
        self.label2id = given if agrees else inverse(self.id2label)

    def __setattr__(self, key, value):
        super().__setattr__(key, value)
        if key == "id2label" and value is not None:
            self.label2id = inverse(value)

    def require_agreeing_labels(self) -> None:
        """Raise a ValueError if a `label2id` that was assigned disagrees with `id2label`."""
        if integers(self.label2id) != inverse(self.id2label):
            raise ValueError(
                f"`label2id` {shortened(self.label2id)} disagrees with `id2label` {shortened(self.id2label)}. Give "
                "`id2label` alone: `label2id` follows from it."
            )


class ClipSizes:
    """Mixin of the configurations of video encoders: the sizes of the model's clips, for which its position table is
    precomputed or learned."""

    @property
    def image_height_width(self) -> tuple[int, int]:
        """Height and width of the model's clips in pixels."""
        return height_width(self.image_size)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Patch tokens along frames, rows and columns of the model's clips."""
        height, width = self.image_height_width
        return self.num_frames // self.tubelet_size, height // self.patch_size, width // self.patch_size


def inverse(id2label: dict[int | str, str]) -> dict[str, int]:
    """The `label2id` of an `id2label`, whose keys are strings in a JSON file."""
    return {name: int(index) for index, name in id2label.items()}


def integers(label2id: dict[str, int | str]) -> dict[str, int]:
    """A `label2id` whose indices may be strings."""
    return {name: int(index) for name, index in label2id.items()}


def shortened(names: dict | None) -> str:
    """A dictionary of class names for a message."""
    text = str(names)
    return text if len(text) <= 80 else f"{text[:80]}…"


__all__ = ["AgreeingLabels", "ClipSizes"]
