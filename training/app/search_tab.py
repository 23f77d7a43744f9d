"""The tab Search: moments of a folder of videos by a text, and a player that begins at the moment."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from processing_umt.video_decoding_umt import VideoReader

from ..search.search import Moment
from .preview import is_playable, write_preview
from .searched import VideoSearch
from .served_files import ServedVideos
from .video_input import MODEL, Surroundings, private


def add_search_tab(videos: VideoSearch, served: ServedVideos, shared: Surroundings) -> None:
    """Adds the tab to the page that is being built; `served` gives the addresses of the videos."""

    def search(query: str, top_k: int) -> tuple[list[Any], list[Moment], str, str]:
        with shared.errors_in_one_line():
            found = videos.find(query, int(top_k))
        moments = [moment for moment, _ in found]
        pictures = [(strip, videos.caption(moment)) for moment, strip in found]
        line = "Choose a moment to play it." if found else "No moment was found."
        return pictures, moments, "", line

    def play(moments: list[Moment], selected: gr.SelectData) -> str:
        moment = moments[selected.index]
        with shared.errors_in_one_line(moment.video):
            return player(moment)

    def player(moment: Moment) -> str:
        if is_playable(moment.video):
            source, times = Path(moment.video), f"#t={moment.start:g},{moment.end:g}"
        else:
            source, times = shared.new_file("moment.mp4"), ""
            with VideoReader(moment.video) as reader:
                write_preview(source, reader, moment.start, moment.end)
        address = html.escape(f"{served.address(source)}{times}")
        caption = html.escape(videos.caption(moment))
        return (
            f'<video src="{address}" controls autoplay playsinline data-start="{moment.start:g}"></video>'
            f"<p>{caption}</p>"
        )

    with gr.Tab("Search", id="search"):
        gr.Markdown("Moments of the indexed videos that match a text, best first.")
        with gr.Row(equal_height=False):
            query = gr.Textbox(
                label="Text",
                placeholder="a dog catches a frisbee",
                submit_btn="Search",
                max_lines=1,
                scale=4,
                min_width=260,
                elem_id="query",
            )
            top_k = gr.Slider(1, 20, value=6, step=1, label="Moments", scale=1, min_width=160)
        line = gr.Markdown("", elem_id="found", elem_classes="note")
        with gr.Row():
            with gr.Column(scale=6, min_width=300):
                gallery = gr.Gallery(
                    label="Moments",
                    columns=1,
                    height="auto",
                    object_fit="contain",
                    allow_preview=False,
                    buttons=[],
                    elem_id="moments",
                    elem_classes="pictures",
                )
            with gr.Column(scale=5, min_width=300):
                shown = gr.HTML("", elem_id="player")
        gr.Markdown(f"Model: `{videos.name}`", elem_classes="note")
        moments = gr.State([])
        query.submit(search, [query, top_k], [gallery, moments, shown, line], concurrency_id=MODEL, **private())
        gallery.select(play, [moments], [shown], concurrency_id=MODEL, **private())
