"""Docstrings in the form of Transformers become Markdown with links."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("griffe")

sys.path.insert(0, str(Path(__file__).parents[2] / "site_hooks"))
import docstrings

NAMES = {"UMTConfig": "modeling_umt.UMTConfig"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("of [`UMTConfig`]", "of [`UMTConfig`][modeling_umt.UMTConfig]"),
        ("of [`UMTConfig.token_grid`]", "of [`UMTConfig.token_grid`][modeling_umt.UMTConfig.token_grid]"),
        ("of [`Unknown`]", "of `Unknown`"),
        ("of [`UMTConfig`](https://a.b)", "of [`UMTConfig`](https://a.b)"),
        ("    size (`int` or `[h, w]`, defaults to 224): pixels", "    size (int or [h, w], defaults to 224): pixels"),
        ("    eps (`float`, *optional*): small", "    eps (float, optional): small"),
        ("rows:\n- a\n- b", "rows:\n\n- a\n- b"),
        ("rows:\n\n- a\n  b\n- c", "rows:\n\n- a\n  b\n- c"),
    ],
)
def test_a_docstring_is_rewritten(text, expected):
    assert docstrings.rewrite_text(text, NAMES) == expected


def test_everything_in_the_reference_is_public():
    """Names of pages of the reference are those that the packages export, and those of two modules of functions."""
    import modeling_umt
    import processing_umt
    import umt_training

    exported = {*modeling_umt.__all__, *processing_umt.__all__, *umt_training.__all__}
    names = docstrings.documented_names()
    functions = {name for name, path in names.items() if path.count(".") > 1 and not path.startswith("training.")}
    assert set(names) - exported - functions == {"load_video_records", "VideoClipDataset"}
    assert exported - set(names) == {"UMTTextModel", "RunFacts"}
