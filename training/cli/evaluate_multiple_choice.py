"""`umt evaluate --task multiple_choice`: which of several captions belongs to a video (MSRVTT-MC; UMT, arXiv
2303.16058, section 4.3), scored by a retrieval model."""

import argparse
from pathlib import Path
from typing import Any

from .arguments import load_video_text_model
from .evaluate_common import computation_options, default_output, remove_partial_scores, report_results, write_csv


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    """No options; the data has `video`, `caption` (a list of texts) and `answer` (an index in it)."""
    return []


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Prints the accuracy and writes `results.json` and `choices.csv` into the output folder, which it returns. Files
    are written atomically."""
    from ..data.text_columns import note_texts
    from ..data.video_records import load_video_records
    from ..evaluation.multiple_choice import check_choices, evaluate_multiple_choice
    from ..evaluation.text_pages import multiple_choice_sections

    records = load_video_records(
        args.data, root=args.root, split=args.split, with_labels=False, reads=("caption", "answer")
    )
    check_choices(records, args.data)
    model, processor = load_video_text_model(args, "choose captions")
    captions = list(dict.fromkeys(caption for options in records["caption"] for caption in options))
    note_texts(processor.inspect_texts(captions), f"captions of {args.data}", state.is_main_process)
    output = args.output or default_output(args, f"multiple_choice-{processor.video_processor.num_frames}frames")
    options = computation_options(args, model.device)
    scores = evaluate_multiple_choice(model, processor, records, partial_folder=output / "partial", **options)
    if state.is_main_process:
        rows = zip(records["video"], scores.answers, scores.choices, scores.credits, strict=True)
        write_csv(output / "choices.csv", ["video", "answer", "choice", "credit"], rows)
        report_results(
            output,
            args,
            task="video-multiple-choice",
            config=model.config,
            model={"architecture": type(model).__name__},
            protocol=scores.protocol,
            dataset={
                "num_questions": len(scores.answers),
                "num_with_equal_options": scores.num_equal,
                "num_ties": scores.num_ties,
            },
            metrics={"accuracy": scores.accuracy},
            scores=scores,
            table=table(scores),
            sections=multiple_choice_sections(output, scores, records["video"], records["caption"]),
            next_command=f"umt search TEXT FOLDER --model {args.model}",
            effect="counted as wrong:",
        )
    remove_partial_scores(scores.partial_folder, state)
    return output


def table(scores: Any) -> list[str]:
    protocol = scores.protocol
    lines = [
        f"{len(scores.answers)} videos, {protocol['frames']} frames ({protocol['dtype']})",
        f"  accuracy {scores.accuracy:6.2f} %",
    ]
    if scores.num_equal or scores.num_ties:
        lines += [
            f"  {scores.num_equal} videos have options that are equal for the model (the same tokens)",
            f"  {scores.num_ties} choices are between n equally good options and count 1/n if one of them is correct",
        ]
    return lines
