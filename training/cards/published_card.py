"""The Hub repository of a published checkpoint, without weights, code and vocabulary: the card, the configuration, the
processor's settings and the result files, built from the checkpoint's row of the registry.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from processing_umt import UMTVideoProcessor

from .card_template import UMT_CITATION, bullets, cite, code_block, render_card, table
from .checkpoint_registry import (
    CLASSIFICATION_KINDS,
    VIDEO_TEXT_KINDS,
    CheckpointRow,
    count_parameters,
    read_registry,
    row_config,
    row_processor,
)
from .published_results import describe_results, eval_results, result_files
from .snippets import ASK, CLASSIFY, DETECT, EMBED, SEARCH, TEACH

# The owner is not known when a card is built; `umt publish` inserts it.
PLACEHOLDER_OWNER = "your-name"
# Settings of a saved repository that do not depend on the row.
UNSTABLE_FIELDS = ("transformers_version",)

SNIPPETS = {
    "teacher": TEACH,
    "stage1": EMBED,
    "mvd": EMBED,
    "everest": EMBED,
    "classification": CLASSIFY,
    "detection": DETECT,
    "stage2": SEARCH,
    "retrieval": SEARCH,
    "question_answering": ASK,
    "tower": EMBED,
    "internvideo2_student": EMBED,
    "internvideo2_classification": CLASSIFY,
}


def repository_files(
    row: CheckpointRow, repo_id: str | None = None, origin: str | None = None, licence: str | None = None
) -> dict[str, str]:
    """The files of a row's repository, except weights, code and vocabulary, as name → text.

    Args:
        row: The row of the registry.
        repo_id: Id on the Hub in the card's code.
        origin: How the weights were converted, in Markdown.
        licence: The licence of the weights, where the row states none.
    """
    card = {"README.md": str(published_card(row, repo_id, origin, licence))}
    return card | settings_files(row) | result_files(row)


def settings_files(row: CheckpointRow) -> dict[str, str]:
    """`config.json` and the processor's settings, as saved by `save_pretrained`."""
    with tempfile.TemporaryDirectory() as folder:
        config = row_config(row)
        config.save_pretrained(folder)
        row_processor(row).save_pretrained(folder)
        names = ["config.json", "processor_config.json", "video_preprocessor_config.json"]
        written = {path.name: json.loads(path.read_text()) for path in Path(folder).iterdir() if path.name in names}
    # saving a configuration without its model writes only the configuration's own entry
    written["config.json"]["auto_map"] = dict(config.auto_map)
    return {name: settings_text(settings) for name, settings in sorted(written.items())}


def settings_text(settings: dict[str, Any]) -> str:
    settings = {name: value for name, value in settings.items() if name not in UNSTABLE_FIELDS}
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"


# --- the card -------------------------------------------------------------------------------------------------------


def published_card(
    row: CheckpointRow, repo_id: str | None = None, origin: str | None = None, licence: str | None = None
) -> ModelCard:
    """The card of a published checkpoint; arguments as in `repository_files`."""
    repo_id = repo_id or f"{PLACEHOLDER_OWNER}/{row.name}"
    source = row.source
    data = ModelCardData(
        model_name=row.name,
        language="en" if row.kind in VIDEO_TEXT_KINDS else None,
        license=row.licence or licence,
        library_name="transformers",
        pipeline_tag=row.shared["task"],
        tags=["video", source.get("tag", "unmasked-teacher"), "umt", row.kind],
        base_model=row.clip,
        datasets=[hub for name in row.data if (hub := read_registry()["datasets"][name].get("hub"))] or None,
        eval_results=eval_results(row) or None,
    )
    return render_card(
        data,
        title=card_title(row),
        summary=row.shared["summary"],
        use=code_block(SNIPPETS[row.kind].format(model=repo_id)),
        purpose=describe_purpose(row),
        input=describe_input(row),
        data=describe_data(row),
        training=describe_training(row),
        results=describe_results(row, repo_id),
        notes=bullets(row.notes),
        origin=describe_origin(row) + (f"\n\n{origin}" if origin else ""),
        licence=describe_licence(row, licence),
        citation=cite(source.get("citation", UMT_CITATION), row.model_class.__name__),
    )


def card_title(row: CheckpointRow) -> str:
    kind = row.shared["name"]
    if row.kind == "teacher":
        return f"UMT {kind}: {row.name}"
    model = "UMT" if row.kind == "tower" else row.source.get("name", "UMT")
    return f"{model}-{row.size}, {kind}: {row.name}"


def describe_purpose(row: CheckpointRow) -> str:
    texts = [
        f"**{heading}**\n\n{bullets(row.shared[key])}"
        for heading, key in (("For", "for"), ("Not for", "not_for"))
        if row.shared[key]
    ]
    return "\n\n".join(texts)


def describe_input(row: CheckpointRow) -> str:
    processor = row_processor(row)
    video = getattr(processor, "video_processor", processor)
    rows = describe_key_frames(row, video) if row.kind == "detection" else describe_clips(row, video)
    if row.kind in VIDEO_TEXT_KINDS:
        rows.append(("text", f"tokens of uncased BERT, at most {row.max_text_length}, with `[CLS]`, without `[SEP]`"))
    if row.classes:
        rows.append(("classes", f"{row.classes}, {describe_class_names(row)}"))
    rows.append(("parameters", f"{count_parameters(row_config(row), row.model_class):,}, saved in float32"))
    return table(("what", "how"), rows)


def describe_clips(row: CheckpointRow, video: UMTVideoProcessor) -> list[tuple[str, str]]:
    """Rows on the clips of models that encode entire videos."""
    frames = f"one from each of {row.frames} equal segments of the video"
    if video.sampling == "strided":
        frames = f"a window at a stride of {video.frame_stride} frames"
    return [
        ("frames", f"{row.frames}, {frames} (`{video.sampling}`)"),
        ("size", f"{row.resolution} x {row.resolution} pixels"),
        ("resize", describe_resize(row, video)),
        ("normalisation", "ImageNet's mean and standard deviation"),
        ("tensor", f"`pixel_values_videos (batch, {row.frames}, 3, {row.resolution}, {row.resolution})`"),
    ]


def describe_key_frames(row: CheckpointRow, video: UMTVideoProcessor) -> list[tuple[str, str]]:
    """Rows on the clips and boxes of an action detection model."""
    mean = ", ".join(f"{255 * value:.4f}" for value in video.image_mean)
    width, height = (f"{100 * fraction:g} %" for fraction in video.box_extension)
    return [
        (
            "frames",
            f"{row.frames} around a key frame, at a stride of {video.frame_stride} of {video.sampling_fps} frames per "
            f"second (`{video.sampling}`)",
        ),
        (
            "size",
            f"entire frames, the short side {video.size['shortest_edge']} pixels, padded at the bottom and right to "
            f"multiples of {video.size_divisor}",
        ),
        ("resize", "bilinear without antialias, as OpenCV does and the official code"),
        ("normalisation", f"mean {mean} and standard deviation {255 * video.image_std[0]:g}, of values from 0 to 255"),
        ("tensor", f"`pixel_values_videos (batch, {row.frames}, 3, height, width)`"),
        (
            "boxes",
            "`boxes (batch, boxes, 4)` of persons in the key frame, in pixels of the padded frames, enlarged by "
            f"{width} of their width and {height} of their height; `box_mask (batch, boxes)`",
        ),
    ]


def describe_resize(row: CheckpointRow, video: UMTVideoProcessor) -> str:
    if row.kind == "tower":
        return "the entire frame to this size, bicubic with antialias"
    if video.resize_kernel == "bicubic_no_antialias":
        return "the entire frame to this size, bicubic without antialias, as in the official code"
    text = (
        'the short side to this size and a centre crop, with antialias; `resize_kernel="opencv_bilinear"` is the '
        "authors' OpenCV resize without antialias"
    )
    return f"{text}, which `umt evaluate` uses" if row.kind in CLASSIFICATION_KINDS else text


def describe_class_names(row: CheckpointRow) -> str:
    if not row.labels:
        return "named `LABEL_0`, `LABEL_1`, ...: see the notes"
    names = f"named in the order of the official {read_registry()['datasets'][row.labels]['name']} heads"
    return names if row.measured else f"{names} (not confirmed by running a trained head)"


def describe_data(row: CheckpointRow) -> str:
    datasets = read_registry()["datasets"]
    steps = []
    for name in row.data:
        about = datasets[name].get("about")
        steps.append(datasets[name]["name"] + (f" ({about})" if about else ""))
    text = f"Trained on {', then on '.join(steps)}."
    if row.kind != "teacher":
        text += (
            " The videos come from the web; the people, places and activities they show are neither balanced nor "
            "checked."
        )
    return text


def describe_training(row: CheckpointRow) -> str:
    lines = []
    if row.start:
        lines.append(f"Started from `{row.start}`.")
    if row.teacher:
        lines.append(f"The teacher is `{row.teacher}`.")
    if row.teachers:
        lines.append(f"The teachers are {row.teachers}.")
    if row.kind == "teacher":
        lines.append("Trained by OpenAI, and frozen in UMT.")
    if row.recipe:
        lines.append(
            f"The published recipe, with its hardware and its departures, is `training/recipes/{row.recipe}.yaml` of "
            "this package."
        )
    return " ".join(lines)


def describe_origin(row: CheckpointRow) -> str:
    source = row.source
    if not row.is_on_hub and not row.clip:
        return (
            f"The official file is on a file-sharing drive, which the [model zoo]({source['page']}) links; it is not "
            "on the Hub. `umt publish` takes the downloaded file as `--checkpoint`.\n"
            f"SHA-256 of the file: {f'`{row.sha256}`' if row.sha256 else 'not known; `umt publish` prints it'}."
        )
    if row.clip:
        return (
            f"The weights are those of `{row.clip}` on the Hub, not pinned to a revision; the official code calls "
            f"them `{row.file}`."
        )
    file = f"`{row.official_file}` of" if row.official_file else "in"
    lines = [
        f"The official file is {file} [{source['hub']}](https://huggingface.co/{source['hub']}), "
        + (f"revision `{source['revision']}`." if source.get("revision") else "not pinned: no revision is known.")
    ]
    if "was" in source:
        dead = f"{source['was']}/{row.official_file}"
        lines.append(f"The link of the official repository, `{dead}`, has been dead since 2024.")
    known = f"`{row.sha256}`" if row.sha256 else "not known; `umt publish` prints it"
    return "\n".join([*lines, f"SHA-256 of the file: {known}."])


def describe_licence(row: CheckpointRow, given: str | None = None) -> str:
    source = row.source
    if "licence_text" in source:
        published = f"Published as `{given}`, as stated by whoever uploaded it.\n\n" if given else ""
        return published + source["licence_text"]
    if row.kind == "mvd":
        return (
            f"{source['license_name']}, the licence of the [official repository]({source['code']}), which links the "
            "file. The weights are the authors'. The training videos have licences of their own; some allow research "
            "only."
        )
    if row.kind == "teacher":
        return "MIT, the licence of OpenAI's CLIP repository. CLIP's own card states its limitations."
    return (
        f"The [official code repository]({source['code']}) is under the MIT licence, and the Hub tags "
        f"[{source['hub']}](https://huggingface.co/{source['hub']}), which contains the weights, as MIT; the "
        "repositories contain no other statement about the weights. The weights are the authors'. The training videos "
        "have licences of their own; some allow research only."
    )
