"""The tab Tokens: the tokens that a student sees, and what selects them."""

from typing import Any

import gradio as gr
from PIL import Image

from .tokens import TokenView
from .video_input import Surroundings, VideoInput, private

_NAMES = {
    "attention": "attention of the teacher, in each frame",
    "clip_attention": "attention of the teacher, in the entire clip",
    "tube": "tubes (random, the same in all frames)",
    "random": "random",
    "motion": "motion",
}
_VISIBLE = 20  # per cent, of UMT's stage 1


def add_tokens_tab(view: TokenView, names: str, shared: Surroundings) -> None:
    """Adds the tab to the page that is being built; `names` are those of the models."""

    def draw(scored: Any, mask_type: str, visible: float) -> tuple[Image.Image | None, str]:
        if scored is None:
            return None, ""
        with shared.errors_in_one_line():
            return view.draw(scored, mask_type, visible)

    def score(path: str, mask_type: str, visible: float) -> tuple[Any, Image.Image | None, str]:
        with shared.errors_in_one_line(path):
            scored = view.score(path)
        return scored, *draw(scored, mask_type, visible)

    with gr.Tab("Tokens", id="tokens"):
        gr.Markdown(
            "In pre-training a student sees few tokens of a clip. Below: the clip, the tokens that stay visible, and "
            "what selects them."
        )
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                video = VideoInput(shared, "tokens")
            with gr.Column(scale=6, min_width=300):
                mask_type = gr.Radio(
                    [(_NAMES[name], name) for name in view.mask_types],
                    value=view.mask_types[0],
                    label="Tokens are selected by",
                    elem_id="mask-type",
                )
                visible = gr.Slider(5, 100, value=_VISIBLE, step=5, label="Visible tokens (%)", elem_id="visible")
                line = gr.Markdown("", elem_id="tokens-line", elem_classes="note")
                gr.Markdown(f"Models: {names}", elem_classes="note")
        picture = gr.Image(
            label="Clip, visible tokens and scores",
            interactive=False,
            format="png",
            elem_id="mask",
            buttons=["download", "fullscreen"],
        )
        scored = gr.State(None)
        video.on_change(score, [mask_type, visible], [scored, picture, line])
        for event in (visible.release, visible.change, mask_type.change):
            event(draw, [scored, mask_type, visible], [picture, line], trigger_mode="always_last", **private())
