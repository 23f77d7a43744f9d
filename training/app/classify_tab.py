"""The tab Classify: the labels of a video as bars, and the frames that were used."""

from typing import Any

import gradio as gr

from .classify import Classifier
from .video_input import Surroundings, VideoInput


def add_classify_tab(classifier: Classifier, shared: Surroundings) -> None:
    """Adds the tab to the page that is being built."""

    def classify(path: str) -> tuple[dict[str, float], list[Any]]:
        with shared.errors_in_one_line(path):
            return classifier.classify(path), classifier.frames(path)

    with gr.Tab("Classify", id="classify"):
        gr.Markdown("The most likely labels of a video. Upload one, record one, or choose an example.")
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                video = VideoInput(shared, "classify")
            with gr.Column(scale=6, min_width=300):
                labels = gr.Label(label="Labels", num_top_classes=5, elem_id="labels")
                frames = gr.Gallery(
                    label="Frames that were used",
                    columns=4,
                    height="auto",
                    object_fit="contain",
                    buttons=[],
                    elem_id="frames",
                    elem_classes="pictures",
                )
                gr.Markdown(f"Model: `{classifier.name}`", elem_classes="note")
        video.on_change(classify, outputs=[labels, frames])
