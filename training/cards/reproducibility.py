"""`docs/reproducibility.md`: the tables of the paper and of the official model zoos, each row with the command that
measures or trains it with this package and with the known departures.

`umt card build` generates the page from the registry. Rows without a command or without a released file are included
and marked as such.
"""

from typing import Any

from .card_template import table
from .checkpoint_registry import CLASSIFICATION_KINDS, CheckpointRow, checkpoint_row, read_registry, row_names
from .published_results import evaluation_command

HEAD = """\
# Reproducibility

The published results of Unmasked Teacher, MVD, EVEREST and InternVideo2, row by row: the result reported by the \
authors, the command that measures it with this package, the recipe that trains it, and the known departures. **None \
of these results has been measured again.** What has been checked is the computation: converted models reproduce the \
official code's outputs on recorded inputs to 1e-5 (`tests/modeling_umt/test_parity.py`), and sampling, crops, \
schedules and metrics equal those of the official code on recorded examples.

`umt card build` generates this page from `model_cards/registry.yaml` and `model_cards/results.yaml`.

## Before the commands

Convert a checkpoint of the model zoo to a folder that the commands read:

```bash
umt publish ROW --repo-id your-name/ROW --dry-run
```

It downloads the official file, checks it against its row and uploads nothing. Lists such as `k400/test.csv` have the \
format of the authors' lists (path and class index). The authors published no lists for Kinetics, so it is not known \
which videos were missing from theirs. With several devices, replace `umt` by \
`accelerate launch --multi_gpu --num_processes 8 $(which umt)`.

Departures in all rows:

- Videos are decoded by PyAV, not by decord; frames are sampled by the same rules. With the same frames, pixels are \
equal to the grey level: on 17 real and generated files, against the official loaders and merging with the same \
checkpoint, logits were equal within 1.4e-5, top-1 for all files and retrieval ranks too. What remains is the \
decoder: decord counts packets that an edit list hides, converts odd heights differently, and does not return exact \
frames in MPEG-4 AVI, WMV2 and MPEG-2 (8 to 28 of 56 frames right; this package 56 of 56). Of several video streams \
both read the best one.
- `umt evaluate` resizes classification views with OpenCV's kernel, as the authors did; elsewhere the processors \
resize with antialias.
- Evaluation runs in float16 on an accelerator, as the authors' did, and in float32 on a CPU.
- Training runs in bfloat16 with float32 weights; the authors used float16 (stage 1 with a gradient scaler, \
classification with DeepSpeed).
- Random choices are functions of the seed, the epoch and the video, and differ from the authors'.
"""

CLASSIFICATION = """\
## Classification

Top-1 accuracy in percent. Views are clips x crops: as printed in the zoo, and as in the command, which follows the \
released script where the two differ. Recipes are in `training/recipes/`; each lists its own departures.
"""

DETECTION = """\
## Action detection

mAP at IoU 0.5 on AVA 2.2 in percent. Logits, loss, boxes, frames and the metric equal the recorded ones. The boxes \
of persons are those that the authors publish.
"""

AVA_FILES = (
    "--data ava_val_v2.2.csv --root clips --boxes ava_val_det_person_bbox.json --image-ids ava_val_v2.2_min.json "
    "--label-map ava_action_list_v2.2_for_activitynet_2019.pbtxt --excluded ava_val_excluded_timestamps_v2.2.csv"
)

ZERO_SHOT = """\
## Zero-shot retrieval

R@1 / R@5 / R@10 in percent after re-ranking the 128 best candidates, of the models after stage 2 with 4 frames.
"""

RETRIEVAL = """\
## Fine-tuned retrieval

R@1 / R@5 / R@10 in percent after re-ranking the 128 best candidates, with 12 frames. Only the models that started \
from the 25M corpus were released; the heads of the recipes list what else the authors changed for the other two \
corpora. Except for DiDeMo, the authors chose the epoch on the split that they report.
"""

QUESTIONS = """\
## Question answering and multiple choice

Accuracy in percent with 12 frames, over the data set's list of answers. Only the models that started from the 25M \
corpus were released; the heads of the recipes list what else the authors changed for the other two corpora.
"""

PAPER_TABLES = """\
## Tables of the paper without released checkpoints

Give each run its own `--output-dir`: a folder that contains another run is refused. The paper's other \
ablations (aligned layers, mask ratio, schedule, teacher, objectives of stage 2) are not listed.
"""

MASKED_MODELING = """\
## Masked modelling: MVD and EVEREST

Results after fine-tuning. The weights that reached them were not published, or are on a file-sharing drive. Recipes \
and their departures are in `training/recipes/`, where the head of each also has the command of the evaluation.
"""


def reproducibility_page() -> str:
    rows = [checkpoint_row(name) for name in row_names()]
    results = read_registry()["results"]
    parts = [
        HEAD,
        CLASSIFICATION + "\n" + classification(rows),
        DETECTION + "\n" + detection(rows),
        ZERO_SHOT + "\n" + retrieval(rows, results["zero_shot"], "zero-shot"),
        RETRIEVAL + "\n" + retrieval(rows, results["retrieval"], "fine-tuned"),
        QUESTIONS + "\n" + questions(rows),
        PAPER_TABLES + "\n" + "\n\n".join(map(paper_table, results["paper_tables"])),
        MASKED_MODELING + "\n" + "\n\n".join(map(paper_table, results["masked_modeling_tables"])),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def classification(rows: list[CheckpointRow]) -> str:
    names = read_registry()["datasets"]
    lines = []
    for row in rows:
        if row.kind in CLASSIFICATION_KINDS and row.is_on_hub:
            model = f"{row.source.get('name', 'UMT')}-{row.size}"
            views, script = (" x ".join(map(str, views)) for views in (row.views, row.script_views or row.views))
            lines.append(
                (names[row.data[-1]]["name"], f"{model}, {row.frames} x {row.resolution}", views, script,
                 f"{row.top1:.1f}", code(evaluation_command(row, row.name)),
                 code(row.recipe) if row.recipe else "none", " ".join(row.notes))
            )  # fmt: skip
    header = ("data", "model", "views, zoo", "views, here", "published", "measure", "recipe", "departures")
    return table(header, lines)


def detection(rows: list[CheckpointRow]) -> str:
    lines = [
        (row.size, row.frames, row.map, code(f"umt evaluate --task detection --model {row.name} {AVA_FILES}"),
         code(row.recipe), " ".join(row.notes))
        for row in rows if row.kind == "detection"
    ]  # fmt: skip
    return table(("model", "frames", "published", "measure", "recipe", "departures"), lines)


def retrieval(rows: list[CheckpointRow], tables: dict[str, Any], protocol: str) -> str:
    names, protocols = read_registry()["datasets"], read_registry()["results"]["protocols"]
    lines = []
    for dataset, directions in tables.items():
        for stage2 in directions["t2v"]:
            row = released(rows, dataset, stage2, protocol)
            command = "not released" if row is None else code(retrieval_command(row, dataset, protocol))
            values = [levels(directions[direction].get(stage2)) if direction in directions else "" for direction in
                      ("t2v", "v2t")]  # fmt: skip
            notes = " ".join(row.notes) if row and protocol == "fine-tuned" else protocols[dataset].get("notes", "")
            lines.append(
                (names[dataset]["name"], stage2, *values, command, recipe_of(rows, row, dataset, stage2), notes)
            )
    header = ("data", "stage 2", "text to video", "video to text", "measure", "recipe", "departures")
    return table(header, lines)


def questions(rows: list[CheckpointRow]) -> str:
    names, results = read_registry()["datasets"], read_registry()["results"]
    lines = []
    for dataset, accuracies in results["question_answering"].items():
        for stage2, accuracy in accuracies.items():
            row = released(rows, dataset, stage2, "fine-tuned")
            command = "not released" if row is None else code(question_command(row, dataset))
            notes = " ".join(row.notes) if row else results["protocols"][dataset].get("notes", "")
            recipe = recipe_of(rows, row, dataset, stage2)
            lines.append((names[dataset]["name"], stage2, f"{accuracy:.1f}", command, recipe, notes))
    return table(("data", "stage 2", "published", "measure", "recipe", "departures"), lines)


def paper_table(described: dict[str, Any]) -> str:
    lines = [
        (row["what"], row["published"], code(row["command"]) if row["command"] else "none", row["notes"])
        for row in described["rows"]
    ]
    return f"### {described['title']}\n\n{table(('row', 'published', 'nearest command', 'departures'), lines)}"


def released(rows: list[CheckpointRow], dataset: str, stage2: str, protocol: str) -> CheckpointRow | None:
    """The released checkpoint of a result; None if there is none."""
    for row in rows:
        if row.stage2 == stage2 and (row.kind == "stage2" if protocol == "zero-shot" else row.data[-1] == dataset):
            return row
    return None


def recipe_of(rows: list[CheckpointRow], row: CheckpointRow | None, dataset: str, stage2: str) -> str:
    """The recipe that trains a model; for a smaller corpus the recipe of the largest with another start."""
    if row is not None:
        return code(row.recipe)
    size, corpus = stage2.split("_")
    sibling = released(rows, dataset, f"{size}_25m", "fine-tuned")
    recipe = sibling.recipe if sibling else read_registry()["results"]["protocols"][dataset]["recipes"][size]
    if corpus == "25m":
        return code(recipe)
    hub = read_registry()["source"]["hub"]
    return code(f"{recipe} --init-from {hub}:{checkpoint_row(stage2).official_file}")


def retrieval_command(row: CheckpointRow, dataset: str, protocol: str) -> str:
    described = read_registry()["results"]["protocols"][dataset]
    options = described.get("options", "")
    if protocol == "zero-shot" and (length := described.get("zero_shot_text_length")):
        options += f" --max-text-length {length[row.size] if isinstance(length, dict) else length}"
    command = f"umt evaluate --task retrieval --model {row.name} --data {described['list']} --root videos {options}"
    return " ".join(command.split())


def question_command(row: CheckpointRow, dataset: str) -> str:
    described = read_registry()["results"]["protocols"][dataset]
    return (
        f"umt evaluate --task question_answering --model {row.name} --data {described['list']} --root videos "
        f"--answers {described['answers']}"
    )


def levels(values: list[float] | None) -> str:
    return "" if values is None else " / ".join(f"{value:.1f}" for value in values)


def code(text: str) -> str:
    return f"`{text}`"
