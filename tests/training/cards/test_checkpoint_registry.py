"""The registry of published checkpoints: the rows, the built cards, and the reproducibility page."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from transformers import AutoConfig, AutoVideoProcessor

from modeling_umt.labels_umt import load_labels
from umt_training.cards import checkpoint_registry
from umt_training.cards.card_folders import build_cards, stale_files, written_files
from umt_training.cards.checkpoint_registry import (
    CLASSIFICATION_KINDS,
    INTERNVIDEO2_KINDS,
    VIDEO_TEXT_KINDS,
    checkpoint_row,
    read_registry,
    row_names,
    row_of_file,
)
from umt_training.cards.published_card import published_card
from umt_training.cli import main
from umt_training.runs.recipes import RECIPES_FOLDER, parse_recipe, read_recipe, recipe_names
from umt_training.runs.task_classes import task_classes

REPOSITORY = Path(__file__).resolve().parents[3]
CARDS = REPOSITORY / "model_cards"

# Numbers of parameters of the official classes, without position table; stage 2 includes the teacher.
BACKBONE = {"B/16": (85_635_840, 768), "L/16": (303_072_256, 1024)}
STAGE1 = {"B/16": 88_005_888, "L/16": 307_806_720}
STAGE2 = {"B/16": 291_595_069, "L/16": 969_466_685}
RETRIEVAL = {"B/16": 202_411_267, "L/16": 659_747_331}
QUESTION_ANSWERING = {"B/16": 254_435_898, "L/16": 775_017_274}
MVD = {
    "mvd_s16_from_b16": 29_865_600, "mvd_s16_from_l16": 30_062_720, "mvd_b16_from_b16": 116_942_592,
    "mvd_b16_from_l16": 117_336_320, "mvd_l16_from_l16": 331_179_008,
}  # fmt: skip
EVEREST = {
    "everest_b16_ucf101": 94_210_944, "everest_b16_ucf101_finetuned": 86_304_869, "everest_b16_k400": 94_210_944,
    "everest_b16_k400_finetuned": 86_227_200 + 400 * 769,
}  # fmt: skip
# without a head, and of stage 1 of 1B; a head has 769 parameters a class, and its norm 1536
INTERNVIDEO2 = {"S/14": 23_043_840, "B/14": 89_438_976, "L/14": 308_929_280, "1B/14": 1_020_708_608}
INTERNVIDEO2_STUDENTS = {"S/14": 29_169_792, "B/14": 102_252_288, "L/14": 327_183_872, "1B/14": 1_070_042_752}
TOWER = 290_479_104
TEACHERS = {"clip_vit_b16": 86_192_640, "clip_vit_l14": 303_904_768, "clip_vit_l14_336": 304_293_888}


def official_parameters(row) -> int:
    if row.name in (others := TEACHERS | MVD | EVEREST):
        return others[row.name]
    if row.kind == "tower":
        return TOWER
    if row.kind == "internvideo2_student":
        return INTERNVIDEO2_STUDENTS[row.size]
    if row.kind == "internvideo2_classification":
        eight_more_frames = 8 * 256 * 1408 if row.frames == 16 else 0
        return INTERNVIDEO2[row.size] + eight_more_frames + 1536 + 769 * row.classes
    if row.kind in ("classification", "detection"):
        backbone, dim = BACKBONE[row.size]
        return backbone + 2 * dim + row.classes * (dim + 1)
    if row.kind == "stage2":
        return STAGE2[row.size] - TEACHERS[row.teacher]
    others = {"stage1": STAGE1, "retrieval": RETRIEVAL, "question_answering": QUESTION_ANSWERING}
    return others[row.kind][row.size]


# --- rows -----------------------------------------------------------------------------------------------------------


def test_every_checkpoint_of_the_zoos_has_a_row():
    kinds = [checkpoint_row(name).kind for name in row_names()]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {
        "teacher": 3, "stage1": 2, "classification": 19, "detection": 2, "stage2": 6, "retrieval": 14,
        "question_answering": 6, "mvd": 5, "everest": 2, "tower": 1, "internvideo2_student": 4,
        "internvideo2_classification": 22,
    }  # fmt: skip
    assert {name for name in row_names() if checkpoint_row(name).kind == "mvd"} == set(MVD)
    assert {name for name in row_names() if checkpoint_row(name).source.get("name") == "EVEREST"} == set(EVEREST)
    names = {name for name in row_names() if not of_another_source(name)} - set(TEACHERS)
    sizes = ("b16", "l16")
    assert {f"{size}_{corpus}" for size in sizes for corpus in ("5m", "17m", "25m")} <= names
    sets = ("msrvtt", "didemo", "anet", "lsmdc", "msvd", "ssv2_label", "ssv2_tpl")
    assert {f"ret_{data}_{size}_25m" for data in sets for size in sizes} <= names
    assert {f"qa_{data}_{size}_25m" for data in ("anet", "msrvtt", "msvd") for size in sizes} <= names
    assert all(name.startswith(sizes) or name.startswith(("ret_", "qa_")) for name in names)


def of_another_source(name: str) -> bool:
    """Whether the file of a row is not in the repository of UMT."""
    return checkpoint_row(name).source.get("name") is not None


def test_files_are_pinned_where_a_revision_is_known():
    pinned = {name: checkpoint_row(name).source.get("revision") for name in row_names()}
    assert {revision for revision in pinned.values() if revision} == {"cf1c1ee", "449f7ea"}
    for name, revision in pinned.items():
        card = (CARDS / name / "README.md").read_text()
        assert (f"revision `{revision}`" in card) if revision else ("not pinned" in card or "not on the Hub" in card)


def test_the_known_errors_of_the_model_zoo_are_notes():
    for name, text in (
        ("internvideo2_l14_k710", "links the file of the distilled model"),
        ("internvideo2_b14_ssv2", "links the file fine-tuned on Kinetics-700"),
        ("internvideo2_1b_k600", "links the file of Kinetics-400"),
        ("internvideo2_s14", "exchanges the scripts of S/14 and B/14"),
        ("internvideo2_l14_ssv2", "names the model of S/14"),
    ):
        assert text in (CARDS / name / "README.md").read_text()


def test_a_file_is_recognised_by_its_name():
    files = "stage1/S14/S14_ft_k710_ft_k400_f8/pytorch_model.bin"
    for checkpoint, name in (
        (f"OpenGVLab/InternVideo2_distillation_models:{files}", "internvideo2_s14_k400"),
        (f"/data/{files}", "internvideo2_s14_k400"),
        ("UMT-L_f4_vision.pt", "umt_l16_tower"),
        ("OpenGVLab/UMT:single_modality/l16_ptk710_f8_res224.pth", "l16_ptk710_f8_res224"),
        ("downloads/l16_ptk710_f8_res224.pth", "l16_ptk710_f8_res224"),
    ):
        assert row_of_file(checkpoint).name == name
    for checkpoint in ("pytorch_model.bin", "my_l16_25m.pth", "other/name:pretrain.pth.zip"):
        assert row_of_file(checkpoint) is None


@pytest.mark.parametrize("name", row_names())
def test_a_row_agrees_with_its_name(name):
    row = checkpoint_row(name)
    if row.kind.startswith("internvideo2"):
        size, _, data = name.removeprefix("internvideo2_").partition("_")
        assert row.size == f"{size.removesuffix('14').upper()}/14"
        assert row.data[-1] == (data.removesuffix("_f16") or "kmash").replace("stage1", "kmash")
        assert row.frames == (16 if data.endswith("_f16") else 8)
    elif row.kind != "teacher":
        assert row.size == {"s": "S/16", "b": "B/16", "l": "L/16"}[re.search(r"(?:^|_)([sbl])16", name)[1]]
    if row.kind != "teacher" and not of_another_source(name):
        assert row.official_file == f"{row.shared['folder']}/{name}.pth"
    if named := re.search(r"_f(\d+)_res(\d+)$", name):
        assert (row.frames, row.resolution) == (int(named[1]), int(named[2]))
    if row.labels:
        assert len(load_labels(row.labels)) == row.classes
    if row.recipe:
        assert row.recipe in recipe_names()
        recipe = read_recipe(row.recipe)
        if "init_from" in recipe:
            start = checkpoint_row(row.start)
            assert recipe["init_from"] == f"{start.source['hub']}:{start.official_file}"
        if row.teacher:
            assert recipe["teacher"] == checkpoint_row(row.teacher).clip


def test_invalid_rows_are_errors(monkeypatch):
    with pytest.raises(ValueError, match="has no checkpoint 'b16_99m'; it has clip_vit_b16"):
        checkpoint_row("b16_99m")
    rows = read_registry()["checkpoints"]
    for change, message in (
        ({"kind": "stage9"}, "unknown kind 'stage9'; the registry has teacher"),
        ({"start": "b16"}, "unknown start 'b16'"),
        ({"origin": "nobody"}, "unknown origin 'nobody'; the registry has mvd, everest"),
        ({"data": ["k1"]}, "unknown data set 'k1'"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ):
        changed = read_registry() | {"checkpoints": rows | {"l16_5m": rows["l16_5m"] | change}}
        monkeypatch.setattr(checkpoint_registry, "read_registry", lambda changed=changed: changed)
        with pytest.raises(ValueError, match=f"row 'l16_5m' of the registry is invalid: .*{message}"):
            checkpoint_row("l16_5m")


def test_cards_of_everest_state_their_tokens_views_and_missing_licence():
    card = str(published_card(checkpoint_row("everest_b16_ucf101_finetuned")))
    for text in (
        "None is stated", "states no licence, neither for the code nor for the weights", "arXiv 2211.10636",
        "16, a window at a stride of 4 frames (`strided`)", "`motion_drop_ratio` 0.4",
        "Started from `everest_b16_ucf101`", "| UCF101 | top-5, % | 98.9 | 5 clips x 3 crops | [README]",
        "--clips 5 --crops 3",
    ):  # fmt: skip
        assert text in card
    assert "\nlicense:" not in card
    config = AutoConfig.from_pretrained(CARDS / "everest_b16_ucf101_finetuned")
    assert (config.motion_drop_ratio, config.tubelet_size, config.position_grid) == (0.4, 2, None)
    card = str(published_card(checkpoint_row("everest_b16_k400")))
    assert "which gave `everest_b16_k400_finetuned`" in card and "| Kinetics-400 | top-1, % | 79.2 | [paper]" in card


def test_a_detection_card_describes_key_frames_and_boxes():
    card = str(published_card(checkpoint_row("l16_ptk710_ftk710_ftava_f8_res224")))
    for text in (
        "39.8 % mAP at IoU 0.5 on AVA 2.2",
        "8 around a key frame, at a stride of 8 of 25 frames per second (`key_frame`)",
        "the short side 256 pixels, padded at the bottom and right to multiples of 16",
        "mean 122.7717, 115.9465, 102.9801 and standard deviation 57.375, of values from 0 to 255",
        "enlarged by 10 % of their width and 5 % of their height",
        "80, named in the order of the official AVA 2.2 heads",
    ):
        assert text in card


# --- folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", row_names())
def test_a_folders_config_has_the_official_number_of_parameters(name):
    row = checkpoint_row(name)
    config = AutoConfig.from_pretrained(CARDS / name)
    assert config.architectures == [row.model_class.__name__]
    with torch.device("meta"):
        model = row.model_class(config)
    assert model.num_parameters() == official_parameters(row)


@pytest.mark.parametrize("name", row_names())
def test_a_folders_processor_fits_its_config(name):
    row = checkpoint_row(name)
    config = AutoConfig.from_pretrained(CARDS / name)
    if row.kind in VIDEO_TEXT_KINDS:  # the folder has no vocabulary; see the tests of publishing
        settings = json.loads((CARDS / name / "processor_config.json").read_text())
        assert settings["max_text_length"] == row.max_text_length
        assert settings["auto_map"]["AutoProcessor"] == "processing_umt.UMTProcessor"
        processor = settings["video_processor"]
        assert (processor["num_frames"], processor["sampling"]) == (config.num_frames, "middle")
        return
    processor = AutoVideoProcessor.from_pretrained(CARDS / name)
    frames = torch.zeros(row.frames, 3, row.resolution + 16, row.resolution + 32, dtype=torch.uint8)
    clip = processor(frames, return_tensors="pt")["pixel_values_videos"]
    # of detection 256 x 273 pixels, padded
    size = (256, 288) if row.kind == "detection" else (row.resolution, row.resolution)
    assert clip.shape == (1, row.frames, 3, *size)
    if row.kind != "teacher":
        assert (config.num_frames, config.image_size) == (row.frames, row.resolution)


@pytest.mark.parametrize("name", row_names())
def test_a_card_shows_its_row(name):
    row = checkpoint_row(name)
    card = ModelCard.load(CARDS / name / "README.md")
    data = card.data
    licences = {"mvd": "cc-by-nc-4.0", "tower": "apache-2.0"} | dict.fromkeys(INTERNVIDEO2_KINDS)
    licence = None if name in EVEREST else licences.get(row.kind, "mit")
    assert (data.license, data.library_name, data.pipeline_tag) == (licence, "transformers", row.shared["task"])
    hash_text = row.sha256 or ("not known" if row.clip is None else row.clip)
    origin = [row.official_file or "in"] if row.is_on_hub else [row.source["page"]]
    if row.kind == "mvd":
        origin.append(row.source["license_name"])
    if row.is_on_hub and row.kind != "teacher":
        origin.append(row.source["hub"])
    if row.source == read_registry()["source"] and row.kind != "teacher":
        origin.append("as MIT")
    if row.licence is None:
        origin.append("Not known: the page" if row.is_on_hub and row.source["revision"] is None else "None is stated")
    for text in (*row.notes, *row.shared["for"], *row.shared["not_for"], *origin, hash_text):
        assert text in card.text
    assert "Measured with this package: nothing yet." in card.text
    without_scores = ("teacher", "stage1", "mvd", "everest", "tower", "internvideo2_student")
    assert (data.eval_results is None) == (row.kind in without_scores)
    sources = ["EVEREST README", "EVEREST paper"]
    if row.is_on_hub:
        sources = [f"{row.source.get('name', 'UMT')} model zoo", "UMT paper, table 6"]
    for result in data.eval_results or []:
        assert result.source_name in sources
        assert result.source_url.startswith("https")
        assert f"{result.metric_value:.1f}" in card.text
    if row.top1:
        assert data.eval_results[0].metric_value == row.top1
    for path in (CARDS / name / ".eval_results").glob("*.yaml"):
        entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
        assert entries and all("published by the authors" in entry.notes and entry.source_url for entry in entries)
        assert {entry.dataset_id for entry in entries} == {read_registry()["datasets"][path.stem]["hub"]}


def test_results_by_example():
    (msrvtt,) = (CARDS / "ret_msrvtt_l16_25m" / ".eval_results").glob("*.yaml")
    values = {entry.task_id: entry.value for entry in parse_eval_result_entries(yaml.safe_load(msrvtt.read_text()))}
    assert values["text_to_video_r1"] == 58.8 and values["video_to_text_r10"] == 86.5
    assert (
        "| ActivityNet | zero-shot, 4 frames | text to video, R@1 / R@5 / R@10, % | 41.9 / 68.9 / 80.3 |"
        in (CARDS / "l16_25m" / "README.md").read_text()
    )
    assert "| 55.2 |" in (CARDS / "qa_msvd_l16_25m" / "README.md").read_text()


def test_a_measurement_of_this_package_is_distinguished_from_published_results(monkeypatch):
    ours = {
        "dataset": "k400", "split": "validation", "metric": "Top-1 accuracy (%), 4 clips x 3 crops", "value": 87.25,
        "command": "umt evaluate --model x", "commit": "0123abc", "date": "2030-01-02",
    }  # fmt: skip
    rows = read_registry()["checkpoints"]
    name = "b16_ptk710_ftk710_ftk400_f8_res224"
    changed = read_registry() | {"checkpoints": rows | {name: rows[name] | {"measured": [ours]}}}
    monkeypatch.setattr(checkpoint_registry, "read_registry", lambda: changed)
    card = published_card(checkpoint_row(name))
    assert (
        "| 87.25 | `umt evaluate --model x` | 0123abc | 2030-01-02 |" in card.text and "nothing yet" not in card.text
    )
    sources = {(result.metric_value, result.source_name) for result in card.data.eval_results}
    assert {(87.4, "UMT model zoo"), (87.25, "measured with umt, commit 0123abc")} <= sources


# --- stale files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return written_files()


def test_the_built_files_are_up_to_date(written, monkeypatch):
    monkeypatch.setattr("umt_training.cards.card_folders.written_files", lambda: written)
    assert stale_files(REPOSITORY) == [], "run `umt card build`"


def test_stale_files_are_found_and_written(tmp_path, monkeypatch, capsys):
    files = {"model_cards/README.md": "list\n", "model_cards/a/config.json": '{"x": 1}', "docs/page.md": "page\n"}
    monkeypatch.setattr("umt_training.cards.card_folders.written_files", lambda: files)
    with pytest.raises(ValueError, match="is not a checkout of the repository"):
        stale_files(tmp_path)
    (tmp_path / "model_cards" / "gone").mkdir(parents=True)
    (tmp_path / "model_cards" / "registry.yaml").write_text("")
    with pytest.raises(ValueError, match="is not a checkout of the repository"):  # as in an installed package
        stale_files(tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "model_cards" / "gone" / "README.md").write_text("no row")
    assert main(["card", "check", "--root", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "4 files differ from the registry; run `umt card build`" in error and "docs/page.md" in error
    assert (
        main(["card", "build", "--root", str(tmp_path)]) == 0 and main(["card", "check", "--root", str(tmp_path)]) == 0
    )
    assert not (tmp_path / "model_cards" / "gone" / "README.md").exists()
    (tmp_path / "model_cards" / "a" / "config.json").write_text('{\n"x":   1}\n')  # another layout
    assert stale_files(tmp_path) == []
    for name, text in (("model_cards/a/config.json", '{"x": 2}'), ("docs/page.md", "page \n")):
        (tmp_path / name).write_text(text)
        assert build_cards(tmp_path) == [name]


# --- the page -------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(written) -> str:
    return written["docs/reproducibility.md"]


def test_the_page_has_every_published_result(page):
    rows = [checkpoint_row(name) for name in row_names()]
    for row in rows:
        if row.kind in CLASSIFICATION_KINDS and row.is_on_hub:
            assert f"| {row.top1:.1f} | `umt evaluate --model {row.name} " in page
        elif row.kind == "detection":
            assert f"| {row.map} |" in page
    results = read_registry()["results"]
    tables = [*results["zero_shot"].values(), *results["retrieval"].values()]
    for recalls in [values for table in tables for direction in table.values() for values in direction.values()]:
        assert " / ".join(f"{recall:.1f}" for recall in recalls) in page
    for dataset, accuracies in results["question_answering"].items():
        name = read_registry()["datasets"][dataset]["name"]
        assert all(f"| {name} | {stage2} | {value:.1f} |" in page for stage2, value in accuracies.items())
    for described in results["masked_modeling_tables"]:
        for row in described["rows"]:
            assert f"| {row['what']} | {row['published']} | `{row['command']}` |" in page
    assert "None of these results has been measured again" in page


def test_the_results_of_masked_modelling_are_those_that_the_recipes_expect():
    """In `results.yaml`, in the heads of the recipes, and in the rows of the published students."""
    described = [row for table in read_registry()["results"]["masked_modeling_tables"] for row in table["rows"]]
    assert len(described) == 2 * 7 + 7
    for row in described:
        words = row["command"].split()
        recipe, start = words[words.index("--config") + 1], words[words.index("--init-from") + 1]
        start = start.replace("-", "_")
        head = " ".join(line.strip("# ") for line in recipe_text(recipe).splitlines() if line.startswith("#"))
        if "/" not in row["published"]:
            assert f"Expected: {row['published']} % top-1" in head
            continue
        top1, top5 = row["published"].split(" / ")
        assert re.search(rf"{top1} %( top-1)? and {top5} %( top-5)? from {start}\b", head)
        if start in row_names():
            assert checkpoint_row(start).finetuned[recipe.rpartition("_")[2]] == [float(top1), float(top5)]


def recipe_text(name: str) -> str:
    return (RECIPES_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_commands_of_the_page_are_valid(page, monkeypatch):
    """The command line parses each of them, and each recipe accepts its overrides."""
    ran = []
    for module in ("evaluate", "pretrain", "finetune"):
        monkeypatch.setattr(f"umt_training.cli.{module}.run", lambda args: ran.append(args) or 0)
    commands = [
        text
        for text in re.findall(r"`(umt \w+ --[^`]+)`", page)
        if text.split()[1] in ("evaluate", "pretrain", "finetune")
    ]
    assert len(commands) > 60
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
        args = ran[-1]
        if args.command == "evaluate":
            continue
        recipe = {key: value for key, value in read_recipe(args.config).items() if key != "bf16"}
        parse_recipe(recipe, [*args.overrides, "--output_dir", "run"], *task_classes(recipe["task"]))
