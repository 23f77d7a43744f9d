"""The page of `umt app`: a tab for each task that the given models can do."""

from dataclasses import dataclass

import gradio as gr

from .ask_tab import Answerer, add_ask_tab
from .classify import Classifier
from .classify_tab import add_classify_tab
from .detect import ActionFinder
from .detect_tab import add_detect_tab
from .search_tab import add_search_tab
from .searched import VideoSearch
from .served_files import ServedVideos
from .tokens import TokenView
from .tokens_tab import add_tokens_tab
from .video_input import Surroundings

TITLE = "Unmasked Teacher"
_MISSING = {
    "classifier": "**Classify**: a classifier",
    "search": "**Search**: a video-text model, and a folder of videos (`--videos`)",
    "answerer": "**Ask**: a question-answering model",
    "finder": "**Detect**: an action detection model",
    "tokens": "**Tokens**: a video encoder, or a teacher (`--teacher`)",
}
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # of the machine, none from the network
_MONO = ("ui-monospace", "Consolas", "monospace")
_OLDEST = 3600  # seconds that uploaded and written files are kept
STYLE = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
.note, .note p { color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.player video { max-height: 420px; }
/* Gradio cuts videos by code from the network */
.player button[aria-label^="Trim"], .player button[aria-label^="Reset"] { display: none; }
/* pictures in their own height, below the label */
.pictures .grid-wrap { height: auto !important; min-height: 0 !important; max-height: none !important; }
.pictures .grid-container { padding-top: 28px; }
.pictures .empty { min-height: 120px; }
#moments .grid-container { grid-template-columns: minmax(0, 1fr); grid-auto-rows: auto !important; }
#mask .image-container { padding-top: 28px; }
#moments .thumbnail-item { aspect-ratio: auto; height: auto; display: block; }
#moments .thumbnail-item img { height: auto; }
#moments .caption-label { position: static; max-width: none; width: 100%; border: 0; text-align: left; }
#player video { width: 100%; max-height: 460px; background: #000; border-radius: var(--radius-lg); }
#player p { margin-top: var(--spacing-md); color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
@media (max-width: 640px) {
  #mask { contain: inline-size; }
  #mask .image-container, #mask .image-frame, #mask button { overflow-x: auto; justify-content: flex-start; }
  #mask img { width: 900px; min-width: 900px; max-width: none; object-fit: contain; }
}
"""


@dataclass(frozen=True)
class AppModels:
    """The models of the page; a task without a model has no tab.

    Args:
        classifier: for the tab Classify.
        search: for Search.
        answerer: for Ask.
        finder: for Detect.
        tokens: for Tokens.
        token_models: names of the models of Tokens.
        note: a line about the models, which the page shows.
    """

    classifier: Classifier | None = None
    search: VideoSearch | None = None
    answerer: Answerer | None = None
    finder: ActionFinder | None = None
    tokens: TokenView | None = None
    token_models: str = ""
    note: str = ""


def build_page(models: AppModels, served: ServedVideos, shared: Surroundings) -> gr.Blocks:
    """The page, which is not served yet.

    Args:
        models: at least one.
        served: gives the addresses of the indexed videos.
        shared: what the tabs share.

    Raises:
        ValueError: no model is given, or an example is broken.
    """
    if not any(getattr(models, task) for task in _MISSING):
        raise ValueError("The page has no model; give at least one.")
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_OLDEST // 6, _OLDEST)) as page:
        gr.Markdown(f"# {TITLE}\n{models.note}")
        with gr.Tabs():
            if models.classifier is not None:
                add_classify_tab(models.classifier, shared)
            if models.search is not None:
                add_search_tab(models.search, served, shared)
            if models.answerer is not None:
                add_ask_tab(models.answerer, shared)
            if models.finder is not None:
                add_detect_tab(models.finder, shared)
            if models.tokens is not None:
                add_tokens_tab(models.tokens, models.token_models, shared)
        missing = [needed for task, needed in _MISSING.items() if getattr(models, task) is None]
        if missing:
            gr.Markdown(f"Further tabs, with models given to `umt app`: {'; '.join(missing)}.", elem_classes="note")
    page.queue(max_size=32, default_concurrency_limit=1, api_open=False)
    return page


def theme() -> gr.themes.Base:
    """The theme, which loads nothing from the network."""
    return gr.themes.Default(primary_hue="blue", font=list(_FONTS), font_mono=list(_MONO))
