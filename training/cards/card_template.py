"""The template of all model cards, `model_cards/card_template.md`, and Markdown elements.

Cards of published checkpoints and of trained models use the same template. A section without text is left out.
"""

import importlib.metadata
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

# The wheel contains registry, results and template inside this package, a checkout has them in `model_cards/`.
INSTALLED = Path(__file__).parents[1] / "model_cards"
CARDS_FOLDER = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[2] / "model_cards"
TEMPLATE = CARDS_FOLDER / "card_template.md"

PACKAGES = ("unmasked-teacher", "torch", "torchvision", "transformers", "accelerate", "peft", "datasets", "av")


UMT_CITATION = (
    "Unmasked Teacher: Towards Training-Efficient Video Foundation Models, ICCV 2023, "
    "[arXiv 2303.16058](https://arxiv.org/abs/2303.16058)."
)


def render_card(
    metadata: ModelCardData, /, *, title: str, summary: str, citation: str = UMT_CITATION, **sections: str | None
) -> ModelCard:
    """Render a card.

    Args:
        metadata: The metadata for the Hub.
        title, summary: The heading and the text below it.
        citation: The paper of the method, at the end.
        sections: The Markdown text of `use`, `purpose`, `input`, `data`, `training`, `results`, `notes`, `origin`,
            `environment` and `licence`.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    card = ModelCard.from_template(
        metadata, template_str=template, title=title, summary=summary, citation=citation, **sections
    )
    return ModelCard(str(card) + "\n")


def cite(paper: str, architecture: str) -> str:
    """The papers of a model: that of its family, and UMT's for students of another family, which are aligned as UMT's.

    Args:
        paper: The paper of the family, in Markdown.
        architecture: The name of the model's class.
    """
    return f"{paper}\n\n{UMT_CITATION}" if architecture == "InternVideo2ForPreTraining" else paper


def code_block(code: str) -> str:
    return f"```python\n{code}```"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def environment() -> list[tuple[str, str]]:
    """Versions of Python and of the installed packages that affect results."""
    versions = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            versions.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:  # not installed, but run from a checkout
            continue
    return versions
