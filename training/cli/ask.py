"""`umt ask`: an answer to a question about a video (UMT, arXiv 2303.16058, section 4.3).

With a list of candidates the model ranks them, as in the evaluation; their scores sum to 1. Without candidates it
generates answers by beam search; their scores are probabilities, which need not sum to 1.
"""

import argparse
import json
import sys
from typing import Any

from ..terminal import printable
from .arguments import add_loading_arguments, add_motion_argument, load_answerer, require_at_least

HELP = "answer a question about a video"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="video file or http(s) URL")
    parser.add_argument("question", metavar="QUESTION", help='such as "what is the man doing?"')
    parser.add_argument("--model", required=True, help="question-answering model folder, or its id on the Hub")
    parser.add_argument(
        "--candidates", metavar="FILE", help="answers to choose from: a JSON list, or a text file, one per line"
    )
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="answers to print")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    add_motion_argument(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one line per answer, best first, or with `--json` `{"video", "question", "answers": [{"answer",
    "score"}]}`. Returns 1 if the video is broken."""
    require_at_least(args, top_k=1)
    if not args.question.strip():
        raise ValueError("The question is empty.")
    from processing_umt import VideoDecodeError

    from ..data.question_records import read_answers
    from ..data.text_columns import note_texts

    candidates = None if args.candidates is None else read_answers(args.candidates)
    model, processor = load_answerer(args)
    note_texts(processor.inspect_texts(args.question), "the question")
    if candidates is not None:
        note_texts(processor.inspect_answers(candidates), f"answers of {args.candidates}")
    try:
        inputs = processor(videos=args.video, text=args.question, num_clips=1, num_crops=1, return_tensors="pt")
    except VideoDecodeError as error:
        print(f"umt ask: {printable(str(error))}", file=sys.stderr)
        return 1
    inputs = inputs.to(model.device)
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(model.dtype)
    if candidates is None:
        answers = generate_answers(model, processor, inputs, args.top_k)
    else:
        answers = choose_answers(model, processor, inputs, candidates)[: args.top_k]
    if args.json:
        found = [{"answer": answer, "score": score} for answer, score in answers]
        print(json.dumps({"video": args.video, "question": args.question, "answers": found}, ensure_ascii=False))
    else:
        width = max(len(answer) for answer, _ in answers)
        print("\n".join(f"{answer:<{width}}  {score:.4f}" for answer, score in answers))
    return 0


def choose_answers(model: Any, processor: Any, inputs: Any, candidates: list[str]) -> list[tuple[str, float]]:
    """The candidates that the model scores, best first, with their scores."""
    encoded = processor.encode_answers(candidates, return_tensors="pt").to(model.device)
    indices, scores = model.rank_answers(
        **inputs, candidate_ids=encoded["input_ids"], candidate_attention_mask=encoded["attention_mask"]
    )
    return [(candidates[index], score) for index, score in zip(indices[0].tolist(), scores[0].tolist(), strict=True)]


def generate_answers(model: Any, processor: Any, inputs: Any, number: int) -> list[tuple[str, float]]:
    """Generated answers, best first, with their probabilities; at most `number` different ones."""
    generated = model.generate(
        **inputs,
        num_beams=max(number, 3),
        num_return_sequences=number,
        length_penalty=0.0,  # makes the scores log-probabilities
        return_dict_in_generate=True,
        output_scores=True,
    )
    texts = processor.tokenizer.batch_decode(generated.sequences, skip_special_tokens=True)
    answers = {}
    for text, score in zip(texts, generated.sequences_scores.exp().tolist(), strict=True):
        answers.setdefault(text, score)
    return list(answers.items())
