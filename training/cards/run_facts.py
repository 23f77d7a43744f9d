"""What a training run knows beside its trainer's arguments, for the model card."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run that its trainer cannot see; a card says that what is missing here is not known.

    Args:
        data: Names of the training data: Hub ids, or paths, of which a card shows the base name.
        eval_data (*optional*): The evaluation data, in words.
        starts: Models that the run started from, Hub ids or paths, the encoder first.
        license (*optional*): Licence of the trained model, an identifier of the Hub such as `apache-2.0`.
        settings: Rows of the card's table of settings, name to value, which come before those of the trainer's
            arguments. None values are left out.
        curves (*optional*): Path of the picture of the run's curves, relative to the model's folder.
    """

    data: tuple[str, ...] = ()
    eval_data: str | None = None
    starts: tuple[str, ...] = ()
    license: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: str | None = None
