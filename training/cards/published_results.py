"""The published results of a checkpoint: the text of its card, its metadata, and the files of `.eval_results/`.

Every published result names its source. A result of this package names the command and the commit that produced it.
"""

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from .card_template import table
from .checkpoint_registry import CLASSIFICATION_KINDS, VIDEO_TEXT_KINDS, CheckpointRow, read_registry

LEVELS = (1, 5, 10)
DIRECTIONS = {"t2v": ("text_to_video", "text to video"), "v2t": ("video_to_text", "video to text")}


# --- on the card ----------------------------------------------------------------------------------------------------


def describe_results(row: CheckpointRow, repo_id: str) -> str:
    """The section of results: published ones and those measured with this package."""
    if row.finetuned:
        published = finetuned_table(row)
    elif row.kind in ("teacher", "stage1", "tower", "internvideo2_student"):
        published = "The authors published no score of this checkpoint itself."
    elif row.kind == "detection":
        published = f"Published by the authors ([model zoo]({zoo_url(row)})): {row.map} % mAP at IoU 0.5 on AVA 2.2."
    elif row.kind in CLASSIFICATION_KINDS:
        published = classification_table(row, repo_id)
    else:
        published = video_text_table(row)
    if not row.measured:
        return published + "\n\nMeasured with this package: nothing yet."
    ours = [
        (read_registry()["datasets"][result["dataset"]]["name"], result["metric"], result["value"],
         f"`{result['command']}`", result["commit"], result["date"])
        for result in row.measured
    ]  # fmt: skip
    header = ("data", "measure", "value", "command", "commit", "date")
    return f"{published}\n\nMeasured with this package:\n\n{table(header, ours)}"


def finetuned_table(row: CheckpointRow) -> str:
    """What the authors reached from a pre-trained checkpoint."""
    datasets = read_registry()["datasets"]
    measures = ("top-1, %", "top-1 / top-5, %")
    rows = [
        (
            datasets[name]["name"],
            measures[len(values) - 1],
            " / ".join(f"{value:.1f}" for value in values),
            link(row, name),
        )
        for name, values in row.finetuned.items()
    ]
    published = [name for name, other in read_registry()["checkpoints"].items() if other.get("start") == row.name]
    weights = f"which gave `{published[0]}`" if published else "with weights that were not published"
    return (
        f"The authors published no score of this checkpoint itself. After fine-tuning, {weights}, they report:\n\n"
        f"{table(('data', 'measure', 'value', 'source'), rows)}"
    )


def classification_table(row: CheckpointRow, repo_id: str) -> str:
    name = read_registry()["datasets"][row.data[-1]]["name"]
    clips, crops = row.views
    views, zoo = f"{clips} clips x {crops} crops", link(row, row.data[-1])
    rows = [(name, "top-1, %", f"{row.top1:.1f}", views, zoo)]
    if row.top5:
        paper = f"[paper]({row.source['paper']}), table 6" if row.is_on_hub else zoo
        rows.append((name, "top-5, %", f"{row.top5:.1f}", views, paper))
    return (
        f"Published by the authors:\n\n{table(('data', 'measure', 'value', 'views', 'source'), rows)}\n\n"
        f"To measure it:\n\n```bash\n{evaluation_command(row, repo_id)}\n```"
    )


def video_text_table(row: CheckpointRow) -> str:
    datasets = read_registry()["datasets"]
    rows = []
    for protocol, dataset, direction, values in video_text_results(row):
        measure = "accuracy, %" if direction is None else f"{DIRECTIONS[direction][1]}, R@1 / R@5 / R@10, %"
        rows.append((datasets[dataset]["name"], protocol, measure, " / ".join(f"{value:.1f}" for value in values)))
    order = "" if row.kind == "question_answering" else ", after re-ranking the 128 best candidates"
    return (
        f"Published by the authors ([model zoo]({zoo_url(row)})){order}:\n\n"
        f"{table(('data', 'protocol', 'measure', 'value'), rows)}"
    )


def evaluation_command(row: CheckpointRow, model: str) -> str:
    """The command that measures a classifier as the released script does, on the authors' list of videos."""
    clips, crops = row.script_views or row.views
    return f"umt evaluate --model {model} --data {row.data[-1]}/test.csv --root videos --clips {clips} --crops {crops}"


# --- as values ------------------------------------------------------------------------------------------------------


def video_text_results(row: CheckpointRow) -> list[tuple[str, str, str | None, list[float]]]:
    """The published results of a video-text model, as (protocol, data set, direction, values).

    The direction is "t2v" or "v2t" with recall at 1, 5 and 10, or None with the accuracy.
    """
    results = read_registry()["results"]
    if row.kind == "question_answering":
        values = results["question_answering"][row.data[-1]]
        return [(f"fine-tuned, {row.frames} frames", row.data[-1], None, [values[row.stage2]])]
    if row.kind == "stage2":
        protocol, tables = f"zero-shot, {row.frames} frames", results["zero_shot"]
    else:
        protocol, tables = f"fine-tuned, {row.frames} frames", {row.data[-1]: results["retrieval"][row.data[-1]]}
    return [
        (protocol, dataset, direction, values[row.stage2])
        for dataset, directions in tables.items()
        for direction, values in directions.items()
    ]


def published_scores(row: CheckpointRow) -> list[tuple[str, str, str, str, float]]:
    """The published results of a row, as (data set, task id, metric type, name of the metric, value in percent)."""
    if row.kind == "detection":
        return [("ava", "action_detection_map", "mean_average_precision", "mAP at IoU 0.5 (%)", row.map)]
    if row.kind in CLASSIFICATION_KINDS:
        views = f"{row.views[0]} clips x {row.views[1]} crops"
        scores = [(row.data[-1], "top1_accuracy", "accuracy", f"Top-1 accuracy (%), {views}", row.top1)]
        if row.top5:
            name = f"Top-5 accuracy (%), {views}" + (", paper's table 6" if row.is_on_hub else "")
            scores.append((row.data[-1], "top5_accuracy", "accuracy", name, row.top5))
        return scores
    if row.kind not in VIDEO_TEXT_KINDS:
        return []
    scores = []
    for protocol, dataset, direction, values in video_text_results(row):
        if direction is None:
            scores.append((dataset, "accuracy", "accuracy", f"Accuracy (%), {protocol}", values[0]))
            continue
        task, words = DIRECTIONS[direction]
        for level, value in zip(LEVELS, values, strict=True):
            name = f"{words.capitalize()} R@{level} (%), {protocol}, re-ranked"
            scores.append((dataset, f"{task}_r{level}", "recall", name, value))
    return scores


def score_source(row: CheckpointRow, dataset: str, task: str) -> tuple[str, str]:
    """Name and address of the source of a published result."""
    if not row.is_on_hub:
        url = row.source["results"][dataset]
        return f"{row.source['name']} {'paper' if 'arxiv' in url else 'README'}", url
    if task == "top5_accuracy":
        return "UMT paper, table 6", read_registry()["source"]["paper"]
    return f"{row.source.get('name', 'UMT')} model zoo", zoo_url(row)


def link(row: CheckpointRow, dataset: str) -> str:
    """A link to the source of a published accuracy, in Markdown."""
    name, url = score_source(row, dataset, "top1_accuracy")
    return f"[{name.split(' ', 1)[1]}]({url})"


def zoo_url(row: CheckpointRow) -> str:
    if "results" in row.source:
        return row.source["results"]
    source = read_registry()["source"]
    if row.kind == "detection":
        return f"{source['code']}/blob/{source['commit']}/single_modality/action_detection/README.md"
    return f"{source['code']}/blob/{source['commit']}/{row.shared['folder']}/MODEL_ZOO.md"


# --- for the Hub ----------------------------------------------------------------------------------------------------


def eval_results(row: CheckpointRow) -> list[EvalResult]:
    """The published results, and those of this package, for the card's `model-index`."""
    datasets = read_registry()["datasets"]

    published = [
        EvalResult(
            task_type=row.shared["task"] or "object-detection",
            dataset_type=datasets[dataset].get("hub") or dataset,
            dataset_name=datasets[dataset]["name"],
            metric_type=metric_type,
            metric_name=name,
            metric_value=float(value),
            source_name=source,
            source_url=url,
        )
        for dataset, task, metric_type, name, value in published_scores(row)
        for source, url in [score_source(row, dataset, task)]
    ]
    ours = [
        EvalResult(
            task_type=row.shared["task"],
            dataset_type=datasets[result["dataset"]].get("hub") or result["dataset"],
            dataset_name=datasets[result["dataset"]]["name"],
            dataset_split=result["split"],  # without it, `model-index` lists the result under the published source
            metric_type="accuracy",
            metric_name=result["metric"],
            metric_value=float(result["value"]),
            source_name=f"measured with umt, commit {result['commit']}",
            source_url=read_registry()["source"]["code"],
        )
        for result in row.measured
    ]
    return published + ours


def result_files(row: CheckpointRow) -> dict[str, str]:
    """`.eval_results/<data set>.yaml`, the Hub's newer form of published results, for data sets on the Hub."""
    datasets, entries = read_registry()["datasets"], {}
    for dataset, task, _, name, value in published_scores(row):
        if hub := datasets[dataset].get("hub"):
            source, url = score_source(row, dataset, task)
            entry = EvalResultEntry(
                dataset_id=hub,
                task_id=task,
                value=float(value),
                source_url=url,
                source_name=source,
                source_org=row.source["hub"].split("/")[0] if row.is_on_hub else row.source["code"].split("/")[-2],
                notes=f"{name}; published by the authors on their own list of this data set, not measured by umt",
            )
            entries.setdefault(dataset, []).append(entry)
    return {
        f".eval_results/{dataset}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(listed), sort_keys=False, allow_unicode=True, width=120
        )
        for dataset, listed in entries.items()
    }
