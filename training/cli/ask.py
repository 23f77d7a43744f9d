"""`umt ask`: an answer to a question about a video (UMT, arXiv 2303.16058, section 4.3).

With a list of candidates the model ranks them, as it is evaluated; without, it writes answers of its own, the
likeliest of a beam search. Unusual: the scores of written answers are their probabilities, so they need not sum to 1.
"""

import argparse
import json
import sys

from .arguments import add_loading_arguments, load_model

HELP = "answer a question about a video"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="video file or http(s) URL")
    parser.add_argument("question", metavar="QUESTION", help='such as "what is the man doing?"')
    parser.add_argument("--model", required=True, help="question-answering model folder, or its id on the Hub")
    parser.add_argument(
        "--candidates", metavar="FILE", help="answers to choose from: a JSON list, or a text file, one in a line"
    )
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="answers to print")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a line per answer, the best first, or with `--json` `{"video", "question", "answers": [{"answer",
    "score"}]}`. Returns 1 if the video is broken."""
    if args.top_k < 1:
        raise ValueError(f"--top-k is {args.top_k}; expected at least 1.")
    from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

    import modeling_umt  # noqa: F401 (registers the models)
    from processing_umt import VideoDecodeError

    from ..data.question_records import read_answers

    candidates = None if args.candidates is None else read_answers(args.candidates)
    model = load_model(AutoModelForVisualQuestionAnswering, args, "answer questions")
    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    try:
        asked = processor(videos=args.video, text=args.question, num_clips=1, num_crops=1, return_tensors="pt")
    except VideoDecodeError as error:
        print(f"umt ask: {error}", file=sys.stderr)
        return 1
    asked = asked.to(model.device)
    asked["pixel_values_videos"] = asked["pixel_values_videos"].to(model.dtype)
    if candidates is None:
        answers = write_answers(model, processor, asked, args.top_k)
    else:
        answers = choose_answers(model, processor, asked, candidates)[: args.top_k]
    if args.json:
        found = [{"answer": answer, "score": score} for answer, score in answers]
        print(json.dumps({"video": args.video, "question": args.question, "answers": found}, ensure_ascii=False))
    else:
        width = max(len(answer) for answer, _ in answers)
        print("\n".join(f"{answer:<{width}}  {score:.4f}" for answer, score in answers))
    return 0


def choose_answers(model, processor, asked, candidates: list[str]) -> list[tuple[str, float]]:
    """The candidates that are scored, best first, with their shares."""
    encoded = processor.encode_answers(candidates, return_tensors="pt").to(model.device)
    places, scores = model.rank_answers(
        **asked, candidate_ids=encoded["input_ids"], candidate_attention_mask=encoded["attention_mask"]
    )
    return [(candidates[place], score) for place, score in zip(places[0].tolist(), scores[0].tolist(), strict=True)]


def write_answers(model, processor, asked, number: int) -> list[tuple[str, float]]:
    """Answers that the model writes, best first, with their probabilities; at most `number` different ones."""
    written = model.generate(
        **asked,
        num_beams=max(number, 3),
        num_return_sequences=number,
        length_penalty=0.0,  # scores are log-probabilities then
        return_dict_in_generate=True,
        output_scores=True,
    )
    texts = processor.tokenizer.batch_decode(written.sequences, skip_special_tokens=True)
    answers = {}
    for text, score in zip(texts, written.sequences_scores.exp().tolist(), strict=True):
        answers.setdefault(text, score)
    return list(answers.items())
