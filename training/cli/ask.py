"""`umt ask`: an answer to a question about a video (UMT, arXiv 2303.16058, section 4.3).

With a list of candidates the model ranks them, as in the evaluation; their scores sum to 1. Without candidates it
generates answers by beam search; their scores are probabilities, which need not sum to 1.
"""

import argparse
import json
import sys

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
    from ..evaluation.answers import answer_question

    candidates = None if args.candidates is None else read_answers(args.candidates)
    model, processor = load_answerer(args)
    note_texts(processor.inspect_texts(args.question), "the question")
    if candidates is not None:
        note_texts(processor.inspect_answers(candidates), f"answers of {args.candidates}")
    try:
        answers = answer_question(model, processor, args.video, args.question, candidates, args.top_k)
    except VideoDecodeError as error:
        print(f"umt ask: {printable(str(error))}", file=sys.stderr)
        return 1
    if args.json:
        found = [{"answer": answer, "score": score} for answer, score in answers]
        print(json.dumps({"video": args.video, "question": args.question, "answers": found}, ensure_ascii=False))
    else:
        width = max(len(answer) for answer, _ in answers)
        print("\n".join(f"{answer:<{width}}  {score:.4f}" for answer, score in answers))
    return 0
