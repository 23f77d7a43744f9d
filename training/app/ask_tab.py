"""The tab Ask: answers to a question about a video."""

from typing import NamedTuple

import gradio as gr
from transformers import PreTrainedModel

from processing_umt import UMTProcessor

from ..evaluation.answers import answer_question
from .video_input import MODEL, Surroundings, VideoInput, private, require_path


class Answerer(NamedTuple):
    """A question-answering model in evaluation mode, its processor and its name."""

    model: PreTrainedModel
    processor: UMTProcessor
    name: str

    def answer(self, video: str, question: str, candidates: str) -> dict[str, float]:
        """The best answers with their scores.

        Args:
            video: path of the video.
            question: text of the question.
            candidates: answers to choose from, one per line; without any, answers are generated.

        Raises:
            VideoDecodeError: the video can't be read.
            ValueError: the question is empty, or an answer is given twice.
        """
        if not question.strip():
            raise ValueError("The question is empty.")
        listed = [line.strip() for line in candidates.splitlines() if line.strip()]
        if len(set(listed)) < len(listed):
            raise ValueError("An answer to choose from is given twice; remove one of the two.")
        return dict(answer_question(self.model, self.processor, video, question.strip(), listed or None))


def add_ask_tab(answerer: Answerer, shared: Surroundings) -> None:
    """Adds the tab to the page that is being built."""

    def ask(path: str | None, question: str | None, candidates: str | None) -> dict[str, float]:
        path = require_path(path)
        with shared.errors_in_one_line(path):
            return answerer.answer(path, question or "", candidates or "")

    with gr.Tab("Ask", id="ask"):
        gr.Markdown("Answers to a question about a video.")
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                video = VideoInput(shared, "ask")
            with gr.Column(scale=6, min_width=300):
                question = gr.Textbox(
                    label="Question",
                    placeholder="what is the man doing?",
                    submit_btn="Ask",
                    max_lines=1,
                    elem_id="question",
                )
                with gr.Accordion("Choose from a list of answers", open=False):
                    candidates = gr.Textbox(
                        label="Answers, one per line; without any, the model writes answers", lines=4
                    )
                answers = gr.Label(label="Answers", num_top_classes=5, elem_id="answers")
                gr.Markdown(f"Model: `{answerer.name}`", elem_classes="note")
        video.on_change(outputs=[answers])
        question.submit(ask, [video.path, question, candidates], [answers], concurrency_id=MODEL, **private())
