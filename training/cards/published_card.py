"""The repository of a published checkpoint, all of it but weights, code and vocabulary: card, configuration, processor
and result files, written from its row of the registry.

Not of the paper. Unusual: every published number names its source, and a number of ours would name the command and the
commit that gave it; where there is none, the card says so.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)

from .card_template import bullets, code_block, render_card, table
from .checkpoint_registry import (
    VIDEO_TEXT_KINDS,
    CheckpointRow,
    count_parameters,
    read_registry,
    row_config,
    row_processor,
)
from .model_card import CLASSIFY, EMBED

# Who publishes is not known when the card is built; `umt publish` puts the true name in its place.
PLACEHOLDER_OWNER = "your-name"
# Settings that a saved repository has, and that say nothing of the row.
UNSTABLE_FIELDS = ("transformers_version",)
LEVELS = (1, 5, 10)
DIRECTIONS = {"t2v": ("text_to_video", "text to video"), "v2t": ("video_to_text", "video to text")}

TEACH = """import torch
from transformers import AutoModel, AutoVideoProcessor

processor = AutoVideoProcessor.from_pretrained("{model}", trust_remote_code=True)
teacher = AutoModel.from_pretrained("{model}", trust_remote_code=True).eval()
with torch.inference_mode():
    outputs = teacher(**processor("clip.mp4", return_tensors="pt"))
print(outputs.features.shape)  # (1, aligned layers, tokens, width)
print(outputs.cls_attention.shape)  # (1, frames, tokens of a frame)
"""

SEARCH = """import torch
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModel.from_pretrained("{model}", trust_remote_code=True).eval()
texts = ["a person is cooking", "a dog runs on the beach"]
inputs = processor(text=texts, videos="clip.mp4", return_tensors="pt")
with torch.inference_mode():
    outputs = model(**inputs)
    frames = model.get_video_features(inputs["pixel_values_videos"]).last_hidden_state
    words = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    matches = model.match(words, inputs["attention_mask"], frames.expand(len(texts), -1, -1))
print(outputs.video_embeds @ outputs.text_embeds.T)  # (1 video, 2 texts): cosines, to find candidates
print(matches[:, 1])  # the score that ranks them
"""

ASK = """import torch
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

processor = AutoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModelForVisualQuestionAnswering.from_pretrained("{model}", trust_remote_code=True).eval()
answers = ["dog", "cat", "guitar"]
question = processor(text="what is on the beach?", videos="clip.mp4", return_tensors="pt")
candidates = processor.encode_answers(answers, return_tensors="pt")
with torch.inference_mode():
    order, scores = model.rank_answers(**question, candidate_ids=candidates["input_ids"])
print(answers[order[0, 0].item()], scores[0, 0].item())
"""

SNIPPETS = {
    "teacher": TEACH,
    "stage-1": EMBED,
    "classification": CLASSIFY,
    "stage-2": SEARCH,
    "retrieval": SEARCH,
    "question_answering": ASK,
}


def repository_files(row: CheckpointRow, repo_id: str | None = None, origin: str | None = None) -> dict[str, str]:
    """Name → text of every file of the row's repository but weights, code and vocabulary.

    Args:
        repo_id: Id on the Hub that the card's code loads.
        origin: What the weights were made from, in Markdown, once they were.
    """
    files = {"README.md": str(published_card(row, repo_id, origin))}
    if row.has_model:
        files |= settings_files(row)
    return files | result_files(row)


def settings_files(row: CheckpointRow) -> dict[str, str]:
    """`config.json` and the processor's settings, as `save_pretrained` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        config = row_config(row)
        config.save_pretrained(folder)
        row_processor(row).save_pretrained(folder)
        names = ["config.json", "processor_config.json", "video_preprocessor_config.json"]
        written = {path.name: json.loads(path.read_text()) for path in Path(folder).iterdir() if path.name in names}
    # saving a bare configuration records no more than itself
    written["config.json"]["auto_map"] = dict(config.auto_map)
    return {name: settings_text(settings) for name, settings in sorted(written.items())}


def settings_text(settings: dict[str, Any]) -> str:
    settings = {name: value for name, value in settings.items() if name not in UNSTABLE_FIELDS}
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"


# --- the card -------------------------------------------------------------------------------------------------------


def published_card(row: CheckpointRow, repo_id: str | None = None, origin: str | None = None) -> ModelCard:
    """The card of a published checkpoint."""
    repo_id = repo_id or f"{PLACEHOLDER_OWNER}/{row.name}"
    source = read_registry()["source"]
    kind = row.kind.replace("_", " ")
    data = ModelCardData(
        model_name=row.name,
        language="en" if row.kind in VIDEO_TEXT_KINDS else None,
        license=row.license or source["license"],
        library_name="transformers",
        pipeline_tag=row.shared["task"],
        tags=["video", "unmasked-teacher", "umt", row.kind],
        base_model=row.clip,
        datasets=[hub for name in row.data if (hub := read_registry()["datasets"][name].get("hub"))] or None,
        eval_results=eval_results(row) or None,
    )
    return render_card(
        data,
        title=f"UMT teacher: {row.name}" if row.kind == "teacher" else f"UMT-{row.size}, {kind}: {row.name}",
        summary=row.shared["summary"],
        use=code_block(SNIPPETS[row.kind].format(model=repo_id)) if row.has_model else None,
        purpose=describe_purpose(row),
        input=describe_input(row),
        data=describe_data(row),
        training=describe_training(row),
        results=describe_results(row, repo_id),
        notes=bullets(row.notes),
        origin=describe_origin(row) + (f"\n\n{origin}" if origin else ""),
        licence=describe_licence(row),
    )


def describe_purpose(row: CheckpointRow) -> str:
    texts = [
        f"**{word}**\n\n{bullets(row.shared[key])}"
        for word, key in (("For", "for"), ("Not for", "not_for"))
        if row.shared[key]
    ]
    return "\n\n".join(texts)


def describe_input(row: CheckpointRow) -> str:
    if not row.has_model:
        return f"{row.frames} frames."
    processor = row_processor(row)
    video = getattr(processor, "video_processor", processor)
    rows = [
        ("frames", f"{row.frames}, one from each of as many equal segments of the video (`{video.sampling}`)"),
        ("size", f"{row.resolution} x {row.resolution} pixels"),
        ("resize", resize_in_words(row, video)),
        ("normalisation", "ImageNet's mean and standard deviation"),
        ("tensor", f"`pixel_values_videos (batch, {row.frames}, 3, {row.resolution}, {row.resolution})`"),
    ]
    if row.kind in VIDEO_TEXT_KINDS:
        rows.append(("text", f"BERT's uncased word pieces, at most {row.max_text_length}, `[CLS]` and no `[SEP]`"))
    if row.kind == "classification":
        named = "named `LABEL_0`, `LABEL_1`, ...: see below"
        if row.labels:
            named = f"named in the order of the official {read_registry()['datasets'][row.labels]['name']} heads"
            if not row.measured:
                named += " (no trained head was run to confirm it)"
        rows.append(("classes", f"{row.classes}, {named}"))
    rows.append(("parameters", f"{count_parameters(row_config(row), row.model_class):,}, saved in float32"))
    return table(("what", "how"), rows)


def resize_in_words(row: CheckpointRow, video: Any) -> str:
    if video.resize_kernel == "bicubic_no_antialias":
        return "the whole frame to that square, bicubic without antialias, as the authors do"
    text = (
        "the short side to that size and a centre crop, with antialias; the authors' OpenCV resize, without, is "
        '`resize_kernel="opencv_bilinear"`'
    )
    return f"{text}, which `umt evaluate` uses" if row.kind == "classification" else text


def describe_data(row: CheckpointRow) -> str:
    datasets = read_registry()["datasets"]
    steps = []
    for name in row.data:
        about = datasets[name].get("about")
        steps.append(datasets[name]["name"] + (f" ({about})" if about else ""))
    text = f"Trained on {', then on '.join(steps)}."
    if row.kind != "teacher":
        text += (
            " The videos come from the web; what they show of people, places and activities is neither balanced nor "
            "checked."
        )
    return text


def describe_training(row: CheckpointRow) -> str:
    lines = []
    if row.start:
        lines.append(f"Started from `{row.start}`.")
    if row.teacher:
        lines.append(f"Taught by `{row.teacher}`.")
    if row.kind == "teacher":
        lines.append("Trained by OpenAI, and frozen ever since.")
    if row.recipe:
        lines.append(
            f"The published recipe, with its hardware and its departures, is `training/recipes/{row.recipe}.yaml` of "
            "this package."
        )
    return " ".join(lines)


def describe_origin(row: CheckpointRow) -> str:
    source = read_registry()["source"]
    if row.clip:
        lines = [f"The weights are those of `{row.clip}` on the Hub; the official code calls them `{row.file}`."]
    else:
        lines = [
            f"The official file is `{row.official_file}` of [{source['hub']}](https://huggingface.co/{source['hub']}).",
            f"The official repository links `{source['was']}/{row.official_file}`, which is dead since 2024.",
        ]
        unknown = "not known" if row.kind == "detection" else "not known; `umt publish` prints it"
        lines.append(f"SHA-256 of the file: {f'`{row.sha256}`' if row.sha256 else unknown}.")
    return "\n".join(lines)


def describe_licence(row: CheckpointRow) -> str:
    source = read_registry()["source"]
    if row.kind == "teacher":
        return "MIT, the licence of OpenAI's CLIP repository. CLIP's own card tells its limits and what it is not for."
    return (
        f"The [official code repository]({source['code']}) is under the MIT licence; no statement about the weights "
        "was found beside it. The weights are the authors'. The videos that they were trained on have licences of "
        "their own; some allow research only."
    )


# --- results --------------------------------------------------------------------------------------------------------


def describe_results(row: CheckpointRow, repo_id: str) -> str:
    if row.kind in ("teacher", "stage-1"):
        published = "There is no published score of this checkpoint by itself."
    elif row.kind == "detection":
        published = f"Published by the authors ([model zoo]({zoo_url(row)})): {row.map} mAP on AVA 2.2."
    elif row.kind == "classification":
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


def classification_table(row: CheckpointRow, repo_id: str) -> str:
    name = read_registry()["datasets"][row.data[-1]]["name"]
    clips, crops = row.views
    rows = [(name, "top-1, %", f"{row.top1:.1f}", f"{clips} clips x {crops} crops", f"[model zoo]({zoo_url(row)})")]
    if row.top5:
        paper = read_registry()["source"]["paper"]
        rows.append(
            (name, "top-5, %", f"{row.top5:.1f}", f"{clips} clips x {crops} crops", f"[paper]({paper}), table 6")
        )
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
    is_answers = row.kind == "question_answering"
    re_ranked = "" if is_answers else ", after re-ranking the 128 best candidates with the fusion layers"
    return (
        f"Published by the authors ([model zoo]({zoo_url(row)})){re_ranked}:\n\n"
        f"{table(('data', 'protocol', 'measure', 'value'), rows)}"
    )


def video_text_results(row: CheckpointRow) -> list[tuple[str, str, str | None, list[float]]]:
    """(protocol, data set, "t2v", "v2t" or None, R@1, R@5 and R@10 or the accuracy) of everything published."""
    results = read_registry()["results"]
    if row.kind == "question_answering":
        values = results["question_answering"][row.data[-1]]
        return [(f"fine-tuned, {row.frames} frames", row.data[-1], None, [values[row.stage2]])]
    if row.kind == "stage-2":
        protocol, tables = f"zero-shot, {row.frames} frames", results["zero_shot"]
    else:
        protocol, tables = f"fine-tuned, {row.frames} frames", {row.data[-1]: results["retrieval"][row.data[-1]]}
    return [
        (protocol, dataset, direction, values[row.stage2])
        for dataset, directions in tables.items()
        for direction, values in directions.items()
    ]


def published_scores(row: CheckpointRow) -> list[tuple[str, str, str, str, float]]:
    """(data set, task id, metric type, metric in words, value in percent) of everything published of a row."""
    if row.kind == "detection":
        return [("ava", "action_detection_map", "mean_average_precision", "mAP at IoU 0.5 (%)", row.map)]
    if row.kind == "classification":
        views = f"{row.views[0]} clips x {row.views[1]} crops"
        scores = [(row.data[-1], "top1_accuracy", "accuracy", f"Top-1 accuracy (%), {views}", row.top1)]
        if row.top5:
            words = f"Top-5 accuracy (%), {views}, paper's table 6"
            scores.append((row.data[-1], "top5_accuracy", "accuracy", words, row.top5))
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
            text = f"{words.capitalize()} R@{level} (%), {protocol}, re-ranked"
            scores.append((dataset, f"{task}_r{level}", "recall", text, value))
    return scores


def eval_results(row: CheckpointRow) -> list[EvalResult]:
    """The published numbers, and ours, for the card's `model-index`."""
    datasets = read_registry()["datasets"]

    published = [
        EvalResult(
            task_type=row.shared["task"] or "object-detection",
            dataset_type=datasets[dataset].get("hub") or dataset,
            dataset_name=datasets[dataset]["name"],
            metric_type=metric_type,
            metric_name=words,
            metric_value=float(value),
            source_name=source,
            source_url=url,
        )
        for dataset, task, metric_type, words, value in published_scores(row)
        for source, url in [score_source(row, task)]
    ]
    ours = [
        EvalResult(
            task_type=row.shared["task"],
            dataset_type=datasets[result["dataset"]].get("hub") or result["dataset"],
            dataset_name=datasets[result["dataset"]]["name"],
            dataset_split=result["split"],  # also keeps it from being listed under the source of the published ones
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
    """`.eval_results/<data set>.yaml`, the newer form of the published numbers, where the Hub has the data set."""
    datasets, entries = read_registry()["datasets"], {}
    for dataset, task, _, words, value in published_scores(row):
        if hub := datasets[dataset].get("hub"):
            source, url = score_source(row, task)
            entry = EvalResultEntry(
                dataset_id=hub,
                task_id=task,
                value=float(value),
                source_url=url,
                source_name=source,
                source_org=read_registry()["source"]["hub"].split("/")[0],
                notes=f"{words}; published by the authors on their own list of this data set, not measured by umt",
            )
            entries.setdefault(dataset, []).append(entry)
    return {
        f".eval_results/{dataset}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(listed), sort_keys=False, allow_unicode=True, width=120
        )
        for dataset, listed in entries.items()
    }


def score_source(row: CheckpointRow, task: str) -> tuple[str, str]:
    """Name and address of where a published number stands."""
    if task == "top5_accuracy":
        return "UMT paper, table 6", read_registry()["source"]["paper"]
    return "UMT model zoo", zoo_url(row)


def zoo_url(row: CheckpointRow) -> str:
    source = read_registry()["source"]
    if row.kind == "detection":
        return f"{source['code']}/blob/{source['commit']}/single_modality/action_detection/README.md"
    return f"{source['code']}/blob/{source['commit']}/{row.shared['folder']}/MODEL_ZOO.md"


def evaluation_command(row: CheckpointRow, model: str) -> str:
    """The command that measures a classifier as the released script does, on the authors' kind of list."""
    clips, crops = row.script_views or row.views
    return f"umt evaluate --model {model} --data {row.data[-1]}/test.csv --root videos --clips {clips} --crops {crops}"
