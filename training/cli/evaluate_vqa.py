"""`umt evaluate --task vqa`: the share of questions about videos that are answered right (UMT, arXiv 2303.16058,
section 4.3), by choosing from a list of answers.

Unusual: with the question types of ActivityNet-QA the accuracy is told for each of them too, which the authors do not.
"""

import argparse
from pathlib import Path
from typing import Any

from .arguments import load_model
from .evaluate import (
    autocast_dtype,
    default_output,
    print_skipped,
    settle_computation,
    write_csv,
    write_report,
)


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    return [
        group.add_argument(
            "--answers", metavar="FILE", help="the answers to choose from: a JSON list, or a text file, one in a line"
        ),
        group.add_argument(
            "--scored", type=int, default=128, metavar="K", help="answers of a question that are scored to their end"
        ),
        group.add_argument(
            "--question-types",
            metavar="FILE",
            help="JSON list of question_id and type, such as ActivityNet-QA's test_a.json (default: the data's own)",
        ),
    ]


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Prints a table and writes `results.json` and `answers.csv` into the output folder, which it returns; each
    complete or not at all."""
    from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

    import modeling_umt  # noqa: F401 (registers the models)

    from ..data.question_records import load_question_records, read_answers, read_question_types
    from ..evaluation.vqa import evaluate_questions

    if args.answers is None:
        raise ValueError("Questions are answered from a list; give the data set's with --answers FILE.")
    candidates = read_answers(args.answers)
    types = None if args.question_types is None else read_question_types(args.question_types)
    records = load_question_records(args.data, root=args.root, split=args.split)
    model = load_model(AutoModelForVisualQuestionAnswering, args, "answer questions")
    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    settle_computation(args, model.device)
    scores = evaluate_questions(
        model,
        processor,
        records,
        candidates,
        k=args.scored,
        types=types,
        num_workers=args.num_workers,
        autocast_dtype=autocast_dtype(args),
    )
    output = args.output or default_output(args, f"vqa-{scores.protocol['frames']}frames")
    if state.is_main_process:
        rows = zip(scores.question_ids, scores.questions, scores.answers, scores.predictions, strict=True)
        write_csv(output / "answers.csv", ["question_id", "question", "answer", "prediction"], rows)
        write_report(
            output,
            args,
            "visual-question-answering",
            model.config,
            {"architecture": type(model).__name__},
            scores.protocol | {"answers": args.answers},
            {"num_questions": len(scores.questions), "num_unread_questions": scores.predictions.count(None)},
            scores.skipped,
            {"accuracy": scores.accuracy, "accuracy_by_type": scores.accuracy_by_type},
        )
        print_table(scores)
    return output


def print_table(scores: Any) -> None:
    protocol = scores.protocol
    print(
        f"{len(scores.questions)} questions, {protocol['frames']} frames, {protocol['candidates']} answers to choose "
        f"from, which hold that of {protocol['possible_accuracy']:.2f} % ({protocol['dtype']})"
    )
    print(f"  {'accuracy':<22}{scores.accuracy:6.2f} %")
    for kind, accuracy in scores.accuracy_by_type.items():
        print(f"    {kind:<20}{accuracy:6.2f} %  of {scores.types.count(kind)}")
    print_skipped(scores.skipped, f"counted as wrong: {scores.predictions.count(None)} questions about")
