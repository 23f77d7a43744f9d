"""Runs of masked modelling: their cost compared with arithmetic and the papers, teachers by name, training clips."""

import re
from functools import lru_cache

import pytest
import torch
from tiny_masked_modeling import (
    PIXELS,
    STUDENT,
    make_student,
    make_teachers,
    save_transformers_teachers,
)
from video_files import write_video

from modeling_umt import UMTConfig, UMTForMaskedModeling, UMTImageTeacherConfig, UMTImageTeacherModel, UMTModel
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.token_selection_umt import random_token_selection, tube_token_selection
from umt_training.runs.estimate_masked_modeling import MaskedModelingCost, estimate_masked_modeling
from umt_training.runs.masked_modeling_run import MaskedModelingRun, load_training_clips
from umt_training.runs.pretraining_run import load_student
from umt_training.runs.tasks import estimate
from umt_training.trainers.masked_modeling import UMTMaskedModelingArguments
from umt_training.trainers.masked_modeling_teachers import (
    PUBLISHED_TEACHERS,
    check_teachers_fit,
    load_masked_modeling_teacher,
    size_masked_modeling_teacher,
)

SIZES = {  # hidden size, blocks, heads, MLP
    "S": (384, 12, 6, 1536), "B": (768, 12, 12, 3072), "L": (1024, 24, 16, 4096), "H": (1280, 32, 16, 5120),
}  # fmt: skip
TEACHER_NAMES = {"B": "base", "L": "large", "H": "huge"}
# MVD: student, teacher, decoder (blocks, hidden size, heads)
RUNS = [("S", "B", (2, 384, 6)), ("B", "B", (2, 768, 12)), ("H", "H", (8, 640, 8))]


def model_fields(size: str, decoder: tuple[int, int, int], targets: dict[str, int]) -> dict:
    hidden_size, blocks, heads, mlp = SIZES[size]
    return {
        "num_frames": 16,
        "tubelet_size": 2,
        "position_type": "space_time",
        "hidden_size": hidden_size,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "masked_targets": targets,
        "decoder_num_hidden_layers": decoder[0],
        "decoder_hidden_size": decoder[1],
        "decoder_num_attention_heads": decoder[2],
    }


def blocks(num_tokens: int, width: int, mlp: int) -> float:
    """Multiply-adds of a transformer block."""
    return num_tokens * (4 * width**2 + 2 * width * mlp) + 2 * num_tokens**2 * width


@lru_cache
def cost_of(student_size: str, teacher_size: str, decoder: tuple[int, int, int]) -> MaskedModelingCost:
    """The cost of a run of MVD. A teacher of patches of 14 gets frames of 196 pixels."""
    width = SIZES[teacher_size][0]
    with torch.device("meta"):
        student = UMTForMaskedModeling(
            UMTConfig(**model_fields(student_size, decoder, {"image": width, "video": width}))
        )
    names = {"image": f"facebook/vit-mae-{TEACHER_NAMES[teacher_size]}"}
    names["video"] = f"MCG-NJU/videomae-{TEACHER_NAMES[teacher_size]}"
    teachers = {name: size_masked_modeling_teacher(source, student.config) for name, source in names.items()}
    check_teachers_fit(student.config, {name: teacher.config for name, teacher in teachers.items()})
    return estimate_masked_modeling(student, teachers, tube_token_selection, 0.9)


# --- cost -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("student_size", "teacher_size", "decoder"), RUNS)
def test_the_cost_of_published_runs_is_that_of_the_formula(student_size, teacher_size, decoder):
    """12 N d^2 + 2 N^2 d multiply-adds a block; papers call them FLOPs."""
    width, depth, _, mlp = SIZES[teacher_size]
    cost = cost_of(student_size, teacher_size, decoder)
    assert (cost.visible_tokens, cost.target_tokens) == (160, 1408)

    patch = 14 if teacher_size == "H" else 16
    image = 8 * (196 * 3 * patch**2 * width + depth * blocks(197, width, mlp))
    video = 1568 * 3 * 2 * 16**2 * width + depth * blocks(1568, width, mlp)
    assert cost.teacher_flops == {"image": 2 * image, "video": 2 * video}
    own, own_depth, _, own_mlp = SIZES[student_size]
    encoder = 160 * 3 * 2 * 16**2 * own + own_depth * blocks(160, own, own_mlp)
    assert cost.encoder_flops == 2 * encoder
    num_blocks, narrow, _ = decoder
    one = 160 * own * narrow + num_blocks * blocks(1568, narrow, 4 * narrow) + 1408 * narrow * width
    assert cost.decoder_flops == 2 * 2 * one
    # backward is twice the forward, without the gradient of the pixels
    step = 3 * (cost.encoder_flops + cost.decoder_flops) - 2 * 160 * 3 * 2 * 16**2 * own
    assert cost.student_training_flops == step
    assert cost.training_flops == step + 2 * (image + video)


# multiply-adds in units of 10^9, as derived for the published runs: image teacher, video teacher, forward pass of the
# student (which embeds all tokens there) and step; share of the teachers in percent
LISTED = {
    "S<-B": (141, 180, 24, 393, 82), "B<-B": (141, 180, 77, 553, 58), "H<-H": (1018, 1191, 282, 3055, 72),
}  # fmt: skip


@pytest.mark.parametrize(("student_size", "teacher_size", "decoder"), RUNS)
def test_the_cost_of_published_runs_is_the_listed_one(student_size, teacher_size, decoder):
    cost = cost_of(student_size, teacher_size, decoder)
    image, video, forward, step, share = LISTED[f"{student_size}<-{teacher_size}"]
    giga = 2e9
    assert cost.teacher_flops["image"] / giga == pytest.approx(image, abs=1)
    assert cost.teacher_flops["video"] / giga == pytest.approx(video, abs=1)
    hidden = 1408 * 3 * 2 * 16**2 * SIZES[student_size][0] / 1e9  # embedded in the official code, not here
    assert (cost.encoder_flops + cost.decoder_flops) / giga + hidden == pytest.approx(forward, abs=1)
    assert cost.training_flops / giga == pytest.approx(step, rel=0.02)
    assert 100 * sum(cost.teacher_flops.values()) / cost.training_flops == pytest.approx(share, abs=1)


def test_the_cost_of_pixels_is_the_published_one():
    """VideoMAE-B: 35.48 multiply-adds in units of 10^9 for a clip, with the embedding of all tokens."""
    fields = model_fields("B", (4, 384, 6), {"pixels": 1536}) | {"position_type": "flat", "position_grid": None}
    with torch.device("meta"):
        student = UMTForMaskedModeling(UMTConfig(**fields | {"decoder_projection_bias": False}))
    cost = estimate_masked_modeling(student, {}, tube_token_selection, 0.9)
    hidden = 1408 * 3 * 2 * 16**2 * 768 / 1e9
    assert (cost.encoder_flops + cost.decoder_flops) / 2e9 + hidden == pytest.approx(35.48, abs=0.1)
    assert cost.teacher_flops == {} and cost.training_flops == cost.student_training_flops
    assert estimate_masked_modeling(student, {}, random_token_selection, 0.9).visible_tokens == 157


def test_the_cost_of_everest_is_the_published_one():
    """EVEREST-B: 470 of 1568 tokens in the decoder, 156 in the encoder, 19.8 multiply-adds in units of 10^9 for a
    clip, where all tokens are embedded once; the visible ones are embedded twice here."""
    fields = model_fields("B", (4, 384, 6), {"pixels": 1536}) | {"position_type": "flat", "position_grid": None}
    with torch.device("meta"):
        student = UMTForMaskedModeling(UMTConfig(**fields | {"decoder_projection_bias": False}))
    cost = estimate_masked_modeling(student, {}, None, 0.9, 0.3)
    assert (cost.visible_tokens, cost.target_tokens) == (156, 314)
    assert cost.selection_flops == 2 * 1568 * 1536 * 768
    again = 2 * 156 * 1536 * 768
    forward = cost.selection_flops + cost.encoder_flops - again + cost.decoder_flops
    assert forward / 2e9 == pytest.approx(19.8, abs=0.05)
    assert cost.training_flops == cost.selection_flops + cost.student_training_flops
    # a pool of 24 frames is embedded too, and the 16 frames selected from it
    pooled = estimate_masked_modeling(student, {}, None, 0.9, 0.3, 1.5)
    assert pooled.selection_flops == 2.5 * cost.selection_flops and pooled.target_tokens == 314


def test_clips_of_a_pool_have_more_frames(tmp_path):
    write_video(tmp_path / "video.mp4", num_frames=40)
    arguments = {"output_dir": str(tmp_path / "out"), "use_cpu": True, "mask_type": "motion", "keep_ratio": 0.5}
    student = make_student(**PIXELS).config
    for ratio, frames in ((1.0, 4), (1.5, 6), (1.9, 6), (2.0, 8)):
        args = UMTMaskedModelingArguments(**arguments, frame_pool_ratio=ratio)
        run = MaskedModelingRun(data=str(tmp_path / "video.mp4"), sampling="segments")
        clip = load_training_clips(run, args, student, None)[0, 0]["pixel_values_videos"]
        assert clip.shape == (frames, 3, 64, 64)


@pytest.fixture
def recipe(tmp_path):
    return {
        "task": "masked_modeling",
        "teachers": save_transformers_teachers(tmp_path),
        "model": STUDENT,
        "mask_ratio": 0.75,
        "samples_per_epoch": 1000,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
    }


def test_the_estimate_as_text(recipe, tmp_path):
    text = estimate(recipe, ["--output-dir", str(tmp_path / "out")])
    student, teachers = make_student(), make_teachers()
    count = {name: f"{sum(p.numel() for p in t.parameters()):,}" for name, t in teachers.items()}
    encoder, decoder = (
        f"{sum(p.numel() for p in part.parameters()):,}" for part in (student.umt, student.decoders["image"])
    )
    assert f"parameters: encoder {encoder}, decoder of image {decoder}, decoder of video " in text
    assert f"; image teacher {count['image']}; video teacher {count['video']}\n" in text
    assert "on 8 visible tokens" in text and "for 24 predicted tokens, image teacher " in text
    assert re.search(r"of which the teachers take \d+%\n", text)
    assert "1,000 clips x 3 epochs: 0.0 hours on 32 A100" in text and not (tmp_path / "out").exists()
    pixels = estimate(recipe | {"teachers": {}, "model": STUDENT | PIXELS}, [])
    assert "decoder of pixels" in pixels and "teacher" not in pixels
    with pytest.raises(ValueError, match="image teacher has features of dimension 24"):
        estimate(recipe, ["--model", "{masked_targets: {image: 16, video: 40}}"])


# --- teachers -------------------------------------------------------------------------------------------------------


def test_teachers_are_recognised_by_what_they_are(tmp_path):
    """Folders of Transformers and of this package, for a target of any name and a student of another size."""
    student = UMTConfig(**STUDENT | {"image_size": 32, "num_frames": 8})
    names = save_transformers_teachers(tmp_path)
    for name, teacher in make_teachers().items():
        teacher.save_pretrained(tmp_path / f"own-{name}")
        names[f"own-{name}"] = str(tmp_path / f"own-{name}")
    # it would drop tokens without a mask
    make_student(masked_targets={"other": 24}, motion_drop_ratio=0.5).save_pretrained(tmp_path / "student")
    names["student"] = str(tmp_path / "student")
    teachers = {name: load_masked_modeling_teacher(path, student) for name, path in names.items()}
    for name, teacher in teachers.items():
        is_image = name.endswith("image")
        assert type(teacher) is (UMTImageTeacherModel if is_image else UMTModel)
        assert teacher.config.image_size == 32 and teacher.dtype == torch.float32
        assert is_image or (teacher.config.num_frames, teacher.config.final_norm) == (8, "none")
        clip = torch.randn(1, 4 if is_image else 8, 3, 32, 32)
        assert teacher(clip).last_hidden_state.shape[:2] == (1, 16)
    student.masked_targets = {name: teacher.config.hidden_size for name, teacher in teachers.items()}
    check_teachers_fit(student, {name: teacher.config for name, teacher in teachers.items()})


def test_official_files_are_teachers(tmp_path):
    """Of published widths, by which the number of heads is known."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 64}
    torch.manual_seed(0)
    image = UMTImageTeacherModel(
        UMTImageTeacherConfig(patch_size=14, image_size=196, **sizes | {"hidden_size": 768, "num_attention_heads": 12})
    )
    video = UMTModel(UMTConfig(num_frames=16, tubelet_size=2, position_grid=None, final_norm="none", **sizes))
    torch.save({"model": official_state_dict(image)}, tmp_path / "mae.pth")
    torch.save({"model": official_state_dict(video)}, tmp_path / "videomae.pth")
    student = UMTConfig(**STUDENT)
    loaded = [load_masked_modeling_teacher(str(tmp_path / f"{name}.pth"), student) for name in ("mae", "videomae")]
    assert [type(teacher) for teacher in loaded] == [UMTImageTeacherModel, UMTModel]
    assert [teacher.config.image_size for teacher in loaded] == [56, 64]
    assert loaded[1].config.num_frames == 4
    for teacher, source in zip(loaded, (image, video), strict=True):
        for name, tensor in source.state_dict().items():
            assert torch.equal(teacher.state_dict()[name], tensor)


@pytest.mark.parametrize("name", list(PUBLISHED_TEACHERS))
def test_published_teachers_are_sized_without_a_download(name):
    width = PUBLISHED_TEACHERS[name].hidden_size
    student = UMTConfig(**model_fields("S", (1, 384, 6), {"some_target": width}))
    teacher = size_masked_modeling_teacher(name, student)
    check_teachers_fit(student, {"some_target": teacher.config})
    parameters = sum(parameter.numel() for parameter in teacher.parameters())
    assert {parameter.device.type for parameter in teacher.parameters()} == {"meta"}
    is_image = "mae_pretrain_vit" in name or "vit-mae" in name
    official = {768: (85_798_656, 86_227_200), 1024: (303_301_632, 303_860_736), 1280: (630_688_000, 631_607_040)}
    # the official numbers contain an unused norm and, of images, the position table
    unused = 2 * width + (197 * width if is_image else 0)
    assert parameters == official[width][0 if is_image else 1] - unused


def test_weights_that_a_teacher_lacks_are_an_error(tmp_path):
    make_teachers()["video"].save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ValueError, match=r"lacks \d+ weights of a UMTModel, such as layers\.2\."):
        load_masked_modeling_teacher(str(tmp_path), UMTConfig(**STUDENT))


# --- student --------------------------------------------------------------------------------------------------------


def test_students_from_official_files(tmp_path, capsys):
    """A file of MVD with its decoders, and one of VideoMAE, whose decoder is dropped."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 64}
    sizes |= {"num_frames": 16, "tubelet_size": 2, "decoder_num_hidden_layers": 1}
    targets = {"image": 24, "video": 40}
    torch.manual_seed(0)
    mvd = UMTForMaskedModeling(UMTConfig(position_type="space_time", masked_targets=targets, **sizes))
    pixels = {"position_grid": None, "masked_targets": {"pixels": 1536}, "decoder_projection_bias": False}
    videomae = UMTForMaskedModeling(UMTConfig(**sizes, **pixels))
    for name, model in (("mvd", mvd), ("videomae", videomae)):
        torch.save({"model": official_state_dict(model)}, tmp_path / f"{name}.pth")

    student = load_student(str(tmp_path / "mvd.pth"), {"drop_path_rate": 0.1}, UMTForMaskedModeling)
    assert student.config.masked_targets == targets and student.config.drop_path_rate == 0.1
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in mvd.state_dict().items())
    assert "new weights" not in capsys.readouterr().out

    fields = {"position_type": "space_time", "masked_targets": targets}
    student = load_student(str(tmp_path / "videomae.pth"), fields, UMTForMaskedModeling)
    assert set(student.decoders) == set(targets) and student.config.position_type == "space_time"
    for name, tensor in videomae.umt.state_dict().items():
        assert torch.equal(tensor, student.umt.state_dict()[name])
    assert "new weights: decoders.image.head" in capsys.readouterr().out


# --- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_clips_are_mirrored_only_with_flip(flip, tmp_path):
    for index in range(12):
        write_video(tmp_path / f"{index}.mp4", num_frames=6, colour=40 * index % 256)
    run = MaskedModelingRun(data=str(tmp_path), flip=flip, frame_stride=1)
    args = UMTMaskedModelingArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
    dataset = load_training_clips(run, args, UMTConfig(**STUDENT), (56, 56))
    mirrored = MaskedModelingRun(data=str(tmp_path), flip=False, frame_stride=1)
    plain = load_training_clips(mirrored, args, UMTConfig(**STUDENT), (56, 56))
    flipped = 0
    for index in range(12):
        clips, expected = dataset[0, index], plain[0, index]
        for name in ("pixel_values_videos", "teacher_pixel_values_videos"):
            is_same = torch.equal(clips[name], expected[name])
            assert is_same or torch.equal(clips[name], expected[name].flip(-1))
        flipped += not is_same
    assert (flipped > 0) == flip
