"""`umt evaluate --task question_answering`: accuracy of answers that are chosen from a list (UMT, arXiv 2303.16058,
section 4.3).

With the question types of ActivityNet-QA the accuracy is also reported per question type.
"""

import argparse
from pathlib import Path
from typing import Any

from ..terminal import printable
from .arguments import load_answerer, require_at_least
from .evaluate_common import computation_options, default_output, remove_partial_scores, report_results, write_csv


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    return [
        group.add_argument(
            "--answers", metavar="FILE", help="the answers to choose from: a JSON list, or a text file, one per line"
        ),
        group.add_argument(
            "--scored", type=int, default=128, metavar="K", help="candidates per question whose answers are scored"
        ),
        group.add_argument(
            "--question-types",
            metavar="FILE",
            help="JSON list of question_id and type, such as ActivityNet-QA's test_a.json (default: the data's own)",
        ),
    ]


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Prints a table and writes `results.json` and `answers.csv` into the output folder, which it returns. Files are
    written atomically."""
    from ..data.question_records import load_question_records, read_answers, read_question_types
    from ..data.text_columns import note_texts
    from ..evaluation.question_answering import evaluate_questions
    from ..evaluation.text_pages import question_answering_sections

    require_at_least(args, scored=1)
    if args.answers is None:
        raise ValueError("Answers are chosen from a list; give the list of the data set by --answers FILE.")
    candidates = read_answers(args.answers)
    types = None if args.question_types is None else read_question_types(args.question_types)
    records = load_question_records(args.data, root=args.root, split=args.split)
    model, processor = load_answerer(args)
    questions = list(dict.fromkeys(records["question"]))
    note_texts(processor.inspect_texts(questions), f"questions of {args.data}", state.is_main_process)
    note_texts(processor.inspect_answers(candidates), f"answers of {args.answers}", state.is_main_process)
    output = args.output or default_output(args, f"question_answering-{processor.video_processor.num_frames}frames")
    scores = evaluate_questions(
        model,
        processor,
        records,
        candidates,
        k=args.scored,
        types=types,
        partial_folder=output / "partial",
        **computation_options(args, model.device),
    )
    if state.is_main_process:
        num_unread = scores.predictions.count(None)
        rows = zip(scores.question_ids, scores.questions, scores.answers, scores.predictions, strict=True)
        write_csv(output / "answers.csv", ["question_id", "question", "answer", "prediction"], rows)
        report_results(
            output,
            args,
            task="visual-question-answering",
            config=model.config,
            model={"architecture": type(model).__name__},
            protocol=scores.protocol | {"answers": args.answers, "equal_candidates": len(scores.equal_candidates)},
            dataset={
                "num_questions": len(scores.questions),
                "num_unread_questions": num_unread,
                "num_answers_by_order": scores.num_answers_by_order,
            },
            metrics={"accuracy": scores.accuracy, "accuracy_by_type": scores.accuracy_by_type},
            scores=scores,
            table=table(scores),
            sections=question_answering_sections(output, scores, records["video"]),
            next_command=f"umt ask VIDEO QUESTION --model {args.model}",
            effect=f"counted as wrong: {num_unread} questions about",
        )
    remove_partial_scores(scores.partial_folder, state)
    return output


def table(scores: Any) -> list[str]:
    protocol, equal = scores.protocol, scores.equal_candidates
    notes = []
    if equal:
        notes = [
            f"  {len(equal)} candidates have the tokens of another, such as {equal[0]!r:.30}: the first is predicted",
            f"  {scores.num_answers_by_order} questions have one of these candidates as their answer",
        ]
    return [
        f"{len(scores.questions)} questions, {protocol['frames']} frames, {protocol['candidates']} candidate answers, "
        f"which include {protocol['possible_accuracy']:.2f} % of the correct answers ({protocol['dtype']})",
        f"  {'accuracy':<22}{scores.accuracy:6.2f} %",
        *(
            f"    {_short(kind):<20}{accuracy:6.2f} %  of {scores.types.count(kind)}"
            for kind, accuracy in scores.accuracy_by_type.items()
        ),
        *notes,
    ]


def _short(kind: str) -> str:
    """The name of a question type in the table; `results.json` has the complete names."""
    name = printable(kind)
    return name if len(name) <= 20 else name[:19] + "…"
