"""The registry of published checkpoints (`model_cards/registry.yaml`), and the configuration, the model on the meta
device and the processor of a row.

This module does not read weight files. A row describes a file, and `publishing` checks the file against its row.
"""

import functools
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import BertTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

import modeling_umt
from modeling_umt import InternVideo2Config, UMTConfig, UMTTeacherConfig, UMTVideoTextConfig
from modeling_umt.labels_umt import load_labels
from processing_umt import UMTProcessor, UMTVideoProcessor

from .card_template import CARDS_FOLDER

VIDEO_TEXT_KINDS = ("stage2", "retrieval", "question_answering")
CLASSIFICATION_KINDS = ("classification", "internvideo2_classification")
INTERNVIDEO2_KINDS = ("internvideo2_student", "internvideo2_classification")
# A vocabulary for processors of which only the settings matter.
PLACEHOLDER_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a")


@dataclass(frozen=True)
class CheckpointRow:
    """A published checkpoint; the fields are documented in `model_cards/registry.yaml`.

    Raises:
        ValueError: if the row refers to a kind, size, data set or checkpoint that the registry does not contain.
    """

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
    teachers: str | None = None
    start: str | None = None
    license: str | None = None
    origin: str | None = None
    hub: str | None = None
    revision: str | None = None
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
    finetuned: dict[str, list[float]] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        registry = read_registry()
        wrong = [
            f"unknown {name} {value!r}; the registry has {', '.join(known)}"
            for name, value, known in (
                ("kind", self.kind, registry["kinds"]),
                ("size", self.size, registry["sizes"]),
                *(("data set", data, registry["datasets"]) for data in (*self.data, *self.finetuned)),
                *(("start", start, registry["checkpoints"]) for start in (self.start, self.teacher) if start),
                *([("origin", self.origin, registry["sources"])] if self.origin else []),
            )
            if value not in known
        ]
        if wrong:
            raise ValueError(f"The row {self.name!r} of the registry is invalid: {'; '.join(wrong)}.")

    @property
    def shared(self) -> dict[str, Any]:
        """The registry's entry for this kind of checkpoint."""
        return read_registry()["kinds"][self.kind]

    @property
    def source(self) -> dict[str, Any]:
        """The registry's entry for the origin of the row, or of its kind, with the row's own repository."""
        registry, name = read_registry(), self.origin or self.shared.get("source")
        source = registry["sources"][name] if name else registry["source"]
        own = {"hub": self.hub, "revision": self.revision}
        return source | {key: value for key, value in own.items() if value is not None}

    @property
    def is_on_hub(self) -> bool:
        """Whether the official file is on the Hub, and not on a page that links a file-sharing drive."""
        return "hub" in self.source

    @property
    def licence(self) -> str | None:
        """Identifier of the licence of the official weights; None if none is stated."""
        return self.license or self.source["license"]

    @property
    def official_file(self) -> str | None:
        """Path of the official file in the official repository on the Hub, None if its name is not known; the row's
        name for a file that is not on the Hub."""
        if self.file is None and self.kind in INTERNVIDEO2_KINDS:
            return None
        name = self.file or f"{self.name}.pth"
        return f"{self.shared['folder']}/{name}" if self.shared["folder"] and self.is_on_hub else name

    @property
    def stage2(self) -> str | None:
        """The stage-2 checkpoint of a video-text row: itself or its start; None for other kinds."""
        return {"stage2": self.name, "retrieval": self.start, "question_answering": self.start}.get(self.kind)

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The class of the row's model."""
        return getattr(modeling_umt, self.shared["model"])


def read_registry() -> dict[str, Any]:
    """The content of `registry.yaml`, with the tables of `results.yaml` under `results`; read once."""
    return _read_registry(CARDS_FOLDER)


@functools.cache
def _read_registry(folder: Path) -> dict[str, Any]:
    registry, results = (
        yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in ("registry.yaml", "results.yaml")
    )
    return registry | {"results": results}


def row_names() -> list[str]:
    """The names of all rows, in the order of the registry."""
    return list(read_registry()["checkpoints"])


def checkpoint_row(name: str) -> CheckpointRow:
    """The row with the given name.

    Raises:
        ValueError: if the registry has no such row, or the row is invalid.
    """
    rows = read_registry()["checkpoints"]
    if name not in rows:
        raise ValueError(f"The registry has no checkpoint {name!r}; it has {', '.join(rows)}.")
    try:
        return CheckpointRow(name=name, **rows[name])
    except TypeError as error:
        raise ValueError(f"The row {name!r} of the registry is invalid: {error}.") from error


def row_config(row: CheckpointRow) -> PreTrainedConfig:
    """The configuration of the row's model, as in its saved repository."""
    model_class = row.model_class
    size = read_registry()["sizes"][row.size]
    if row.kind == "teacher":
        config = UMTTeacherConfig(**size["vision"] | row.config)
    elif row.kind in VIDEO_TEXT_KINDS:
        vision = {"num_frames": row.frames, "image_size": row.resolution, "target_dim": size["target_dim"]}
        fields = {"projection_dim": size["target_dim"], "vocabulary_hash": size["vocabulary_hash"]} | row.config
        vision |= size["vision"] | fields.pop("vision_config", {})
        text = size["text"] | fields.pop("text_config", {})
        config = UMTVideoTextConfig(vision_config=vision, text_config=text, **fields)
        config.vision_config.dtype = config.text_config.dtype = torch.float32
        config.is_encoder_decoder = row.kind == "question_answering"
    elif row.kind in INTERNVIDEO2_KINDS:
        fields = {"num_frames": row.frames, "image_size": row.resolution} | size["vision"]
        if row.kind == "internvideo2_classification":
            fields |= class_fields(row) | {"single_frame": "resize"}
        config = InternVideo2Config(**fields | row.config)
    else:
        fields = {"num_frames": row.frames, "image_size": row.resolution} | size["vision"]
        fields |= row.shared.get("config", {})
        if row.kind == "stage1":
            fields["target_dim"] = size["target_dim"]
        elif row.kind not in ("mvd", "everest", "tower"):
            fields |= class_fields(row)
            fields["final_norm"] = "tokens" if row.kind == "detection" else "pooled"
        config = UMTConfig(**fields | row.config)
        if row.kind in ("stage1", "detection"):  # the position table is computed over the clip's own grid
            config.position_grid = list(config.token_grid)
    config.architectures = [model_class.__name__]
    config.auto_map = dict(model_class.remote_code)
    config.dtype = torch.float32
    return config


def class_fields(row: CheckpointRow) -> dict[str, Any]:
    """The fields of a configuration that name the classes of a row."""
    names = load_labels(row.labels) if row.labels else [f"LABEL_{index}" for index in range(row.classes)]
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def row_of_file(checkpoint: str) -> CheckpointRow | None:
    """The row of an official file by its name: `repo_id:filename`, or the end of a path; None if it has no row."""
    for name in row_names():
        row = checkpoint_row(name)
        if row.official_file is None or row.clip is not None:
            continue
        if checkpoint == f"{row.source.get('hub')}:{row.official_file}":
            return row
        file = row.official_file.removeprefix(f"{row.shared['folder']}/")
        if f"/{checkpoint.replace(os.sep, '/')}".endswith(f"/{file}"):
            return row
    return None


def licence_of_files(checkpoint: str, model: PreTrainedModel) -> str | None:
    """A sentence on the licence of the official files that a converted model is of; None for unknown origins.

    Args:
        checkpoint: The converted file.
        model: The model that it became.
    """
    config, sources = model.config, read_registry()["sources"]
    if row := row_of_file(checkpoint):
        name, source = row.name, row.source
        return f"the licence of {name} is {source['license_name'] if row.license is None else row.license}"
    if config.model_type == InternVideo2Config.model_type:
        source = sources["internvideo2"]
    elif getattr(config, "position_type", None) == "space_time":
        source = sources["mvd"]
    elif getattr(config, "single_frame", None) == "first":
        source = sources["tower"]
    else:
        return None
    return f"the licence of {source['name']}'s official files is {source['license_name']}"


def count_parameters(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> int:
    """The number of learned parameters of a model, shared tensors counted once; allocates no memory. Counted once for
    equal configurations."""
    return _count_parameters(config.to_json_string(use_diff=False), model_class)


@functools.cache
def _count_parameters(config: str, model_class: type[PreTrainedModel]) -> int:
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict(json.loads(config)))
    return sum(math.prod(parameter.shape) for parameter in {id(p): p for p in model.parameters()}.values())


def row_processor(
    row: CheckpointRow, bert: str | PreTrainedTokenizerBase | None = None
) -> UMTVideoProcessor | UMTProcessor:
    """The row's processor: a [`UMTVideoProcessor`], or a [`UMTProcessor`] for video-text models.

    Args:
        row: The row of the registry.
        bert (*optional*): The tokenizer, or a Hub id, folder or `vocab.txt` of a BERT. Defaults to a placeholder,
            which is enough for the settings.
    """
    if row.kind in VIDEO_TEXT_KINDS:
        if bert is None:
            bert = BertTokenizer(vocab={token: index for index, token in enumerate(PLACEHOLDER_TOKENS)})
        return UMTProcessor.from_bert(
            bert, num_frames=row.frames, image_size=row.resolution, max_text_length=row.max_text_length
        )
    if row.kind == "teacher":  # its input are the student's clips
        return UMTVideoProcessor(
            num_frames=row.frames,
            size={"shortest_edge": row.resolution},
            crop_size={"height": row.resolution, "width": row.resolution},
        )
    processor = UMTVideoProcessor.for_config(row_config(row))
    for name, value in row.source.get("sampling", {}).items():
        setattr(processor, name, value)
    if row.sampling is not None:
        processor.sampling = row.sampling
    return processor
