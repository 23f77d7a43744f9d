"""The published checkpoints, a row each (`model_cards/registry.yaml`), and what follows from a row: the configuration,
the model on the meta device, the processor.

Not of the paper; the facts are those of the official model zoos. Unusual: nothing here opens a weight file. A row says
what a file must be, and `publishing` holds the file against it.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from transformers import BertTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

import modeling_umt
from modeling_umt import UMTConfig, UMTTeacherConfig, UMTVideoTextConfig
from modeling_umt.labels_umt import load_labels
from processing_umt import UMTProcessor, UMTVideoProcessor

from .card_template import CARDS_FOLDER

VIDEO_TEXT_KINDS = ("stage-2", "retrieval", "vqa")
# BERT's special words at the ids that they have in its vocabulary do not matter for a processor's settings.
PLACEHOLDER_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a")


@dataclass(frozen=True)
class CheckpointRow:
    """One published checkpoint; the fields are explained in `model_cards/registry.yaml`."""

    name: str
    kind: str
    size: str
    data: list[str]
    frames: int
    resolution: int | None
    config: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    clip: str | None = None
    teacher: str | None = None
    start: str | None = None
    license: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    classes: int | None = None
    labels: str | None = None
    sampling: str | None = None
    max_text_length: int | None = None
    top1: float | None = None
    top5: float | None = None
    map: float | None = None
    views: list[int] | None = None
    script_views: list[int] | None = None
    recipe: str | None = None
    measured: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        registry = read_registry()
        wrong = [
            f"its {name} is {value!r}, and the known ones are {', '.join(known)}"
            for name, value, known in (
                ("kind", self.kind, registry["kinds"]),
                ("size", self.size, registry["sizes"]),
                *(("data set", data, registry["datasets"]) for data in self.data),
                *(("start", start, registry["checkpoints"]) for start in (self.start, self.teacher) if start),
            )
            if value not in known
        ]
        if wrong:
            raise ValueError(f"The row {self.name!r} of the registry is wrong: {'; '.join(wrong)}.")

    @property
    def shared(self) -> dict[str, Any]:
        """What the registry says of this kind of checkpoint."""
        return read_registry()["kinds"][self.kind]

    @property
    def official_file(self) -> str:
        """Name of the official file, with its folder in the official repository on the Hub."""
        name = self.file or f"{self.name}.pth"
        return f"{self.shared['folder']}/{name}" if self.shared["folder"] else name

    @property
    def stage2(self) -> str | None:
        """The stage-2 model that a video-text row is or was fine-tuned from."""
        return {"stage-2": self.name, "retrieval": self.start, "vqa": self.start}.get(self.kind)

    @property
    def has_model(self) -> bool:
        """Whether this package has a model for it."""
        return self.shared["model"] is not None

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """Raises a ValueError if there is no model for the row."""
        if not self.has_model:
            raise ValueError(f"{self.name} is a {self.kind} checkpoint, and this package has no model for it yet.")
        return getattr(modeling_umt, self.shared["model"])


@functools.cache
def read_registry() -> dict[str, Any]:
    """`registry.yaml` as it is written, with the tables of `results.yaml` under `results`."""
    registry, results = (
        yaml.safe_load((CARDS_FOLDER / name).read_text(encoding="utf-8")) for name in ("registry.yaml", "results.yaml")
    )
    return registry | {"results": results}


def row_names() -> list[str]:
    """Every row, in the order of the registry."""
    return list(read_registry()["checkpoints"])


def checkpoint_row(name: str) -> CheckpointRow:
    """The row of that name.

    Raises:
        ValueError: if there is none, or it says something that the registry does not explain.
    """
    rows = read_registry()["checkpoints"]
    if name not in rows:
        raise ValueError(f"The registry has no checkpoint {name!r}; it has {', '.join(rows)}.")
    try:
        return CheckpointRow(name=name, **rows[name])
    except TypeError as error:
        raise ValueError(f"The row {name!r} of the registry is wrong: {error}.") from error


def row_config(row: CheckpointRow) -> PreTrainedConfig:
    """The configuration of the row's model, as its saved repository has it.

    Raises:
        ValueError: if there is no model for the row.
    """
    model_class = row.model_class
    size = read_registry()["sizes"][row.size]
    if row.kind == "teacher":
        config = UMTTeacherConfig(**size["vision"] | row.config)
    elif row.kind in VIDEO_TEXT_KINDS:
        vision = {"num_frames": row.frames, "image_size": row.resolution, "target_dim": size["target_dim"]}
        fields = {"projection_dim": size["target_dim"]} | row.config
        vision |= size["vision"] | fields.pop("vision_config", {})
        text = size["text"] | fields.pop("text_config", {})
        config = UMTVideoTextConfig(vision_config=vision, text_config=text, **fields)
        config.vision_config.dtype = config.text_config.dtype = torch.float32
        config.is_encoder_decoder = row.kind == "vqa"
    else:
        fields = {"num_frames": row.frames, "image_size": row.resolution} | size["vision"]
        if row.kind == "stage-1":
            fields["target_dim"] = size["target_dim"]
        else:
            names = load_labels(row.labels) if row.labels else [f"LABEL_{index}" for index in range(row.classes)]
            fields["id2label"] = dict(enumerate(names))
            fields["label2id"] = {name: index for index, name in enumerate(names)}
            fields["final_norm"] = "pooled"
        config = UMTConfig(**fields | row.config)
        if row.kind == "stage-1":  # whose table is computed over the clip's own grid
            config.position_grid = list(config.token_grid)
    config.architectures = [model_class.__name__]
    config.auto_map = dict(model_class.remote_code)
    config.dtype = torch.float32
    return config


def count_parameters(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> int:
    """Learned numbers of a model, each once where tensors are shared; nothing is allocated."""
    with torch.device("meta"):
        model = model_class(config)
    return sum(math.prod(parameter.shape) for parameter in {id(p): p for p in model.parameters()}.values())


def row_processor(row: CheckpointRow, bert: str | PreTrainedTokenizerBase | None = None) -> Any:
    """The row's processor: a video processor, or for the video-text models one with a tokenizer.

    Args:
        bert: Where a tokenizer's vocabulary comes from; by default a placeholder that only carries the settings.
    """
    if row.kind in VIDEO_TEXT_KINDS:
        if bert is None:
            bert = BertTokenizer(vocab={word: number for number, word in enumerate(PLACEHOLDER_WORDS)})
        return UMTProcessor.from_bert(
            bert, num_frames=row.frames, image_size=row.resolution, max_text_length=row.max_text_length
        )
    if row.kind == "teacher":  # which sees its student's clips
        return UMTVideoProcessor(
            num_frames=row.frames,
            size={"shortest_edge": row.resolution},
            crop_size={"height": row.resolution, "width": row.resolution},
        )
    processor = UMTVideoProcessor.for_config(row_config(row))
    if row.sampling is not None:
        processor.sampling = row.sampling
    return processor
