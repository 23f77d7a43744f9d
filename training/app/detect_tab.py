"""The tab Detect: a video with the boxes of persons and their actions."""

from pathlib import Path

import gradio as gr

from ..detection.defaults import THRESHOLD
from ..detection.detections import describe
from .detect import ActionFinder, Row, rows_of
from .video_input import MODEL, Surroundings, VideoInput, private, require_path

_PROGRESS = gr.Progress()  # Gradio gives each call one of its own


def add_detect_tab(finder: ActionFinder, shared: Surroundings) -> None:
    """Adds the tab to the page that is being built."""

    def detect(path: str | None, threshold: float, progress: gr.Progress = _PROGRESS) -> tuple[Path, str, list[Row]]:
        path = require_path(path)
        with shared.errors_in_one_line(path):
            output = shared.new_file(f"{Path(path).stem}-actions.mp4")
            found = finder.find(path, output, threshold, lambda done, what: progress(done, desc=what))
            return output, f"{describe(found)}.", rows_of(found)

    with gr.Tab("Detect", id="detect"):
        gr.Markdown("The persons of a video, and what each of them is doing.")
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                video = VideoInput(shared, "detect")
                threshold = gr.Slider(0, 1, value=THRESHOLD, step=0.05, label="Least score of an action")
                button = gr.Button("Detect", variant="primary", elem_id="detect-button")
            with gr.Column(scale=6, min_width=300):
                shown = gr.Video(
                    label="Persons and actions",
                    interactive=False,
                    autoplay=True,
                    elem_id="detected",
                    elem_classes="player",
                )
                line = gr.Markdown("", elem_classes="note")
                table = gr.Dataframe(
                    headers=["time", "person", "actions"],
                    datatype=["str", "number", "str"],
                    interactive=False,
                    wrap=True,
                    max_height=280,
                    elem_id="actions",
                )
                gr.Markdown(f"Model: `{finder.name}`, persons: `{finder.persons.name}`", elem_classes="note")
        video.on_change(outputs=[shown, line, table])
        button.click(detect, [video.path, threshold], [shown, line, table], concurrency_id=MODEL, **private())
