"""Facts about a training run for its model card, and the names of data and models on a card."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run that its trainer can't know; a card states which of them are missing.

    A card shows local paths, in all fields, by their base names.

    Args:
        data: Names of the training data: Hub ids or paths.
        eval_data (*optional*): The evaluation data, in words.
        starts: Models that the run started from, Hub ids or paths, the encoder first.
        license (*optional*): Licence of the trained model, an identifier of the Hub such as `apache-2.0`.
        settings: Rows of the card's table of settings, name to value, which come before those of the trainer. None
            values are left out.
        curves (*optional*): Path of the picture of the run's curves, relative to the model's folder.
    """

    data: tuple[str, ...] = ()
    eval_data: str | None = None
    starts: tuple[str, ...] = ()
    license: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: str | None = None


def display_name(source: str) -> str:
    """A name as a card shows it: the base name of a local path, any other name unchanged."""
    is_path = os.path.exists(source) or os.path.isabs(source)
    return Path(source).resolve().name if is_path else source


def hub_name(source: str) -> str | None:
    """The Hub repository of a source, which may be a file in it (`owner/name:file.pth`); None for other sources."""
    repository = source.split(":")[0]
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", repository) and not os.path.exists(repository)
    return repository if on_hub else None


def hub_names(sources: tuple[str, ...]) -> list[str]:
    """The Hub repositories among several sources, in order."""
    return [name for name in map(hub_name, sources) if name]
