"""The student and the teacher of a stage-1 run."""

import logging

import pytest
import torch
from tiny_pretraining import STUDENT, make_student, make_teacher, some_clips
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Model,
    DINOv3ViTModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)
from transformers.utils import logging as transformers_logging

from modeling_umt import (
    UMTConfig,
    UMTDinov2Teacher,
    UMTDinov3Teacher,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTModel,
    UMTSiglipTeacher,
    UMTTeacherConfig,
    UMTTeacherModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from umt_training.runs.pretraining_run import PreTrainingRun, load_student, run_facts
from umt_training.trainers.teachers import check_teacher_fits, load_teacher

# the size by which an official file is recognised
PUBLISHED_WIDTH = {
    "image_size": 64,
    "num_frames": 2,
    "hidden_size": 768,
    "num_hidden_layers": 1,
    "num_attention_heads": 12,
    "intermediate_size": 64,
    "num_aligned_layers": 1,
    "target_dim": 16,
}


@pytest.fixture
def warnings_of_transformers(caplog, monkeypatch):
    """The warnings of Transformers, as one text."""
    monkeypatch.setattr(transformers_logging.get_logger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.WARNING, logger="transformers")  # also after an earlier test
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def same_encoder(student, other) -> bool:
    ours, theirs = student.umt.state_dict(), other.state_dict()
    shared = [name for name in ours if name.startswith(("embeddings.", "layers."))]
    return len(shared) > 10 and all(torch.equal(ours[name], theirs[name]) for name in shared)


# --- the student ----------------------------------------------------------------------------------------------------


def test_a_new_student():
    student = load_student(None, STUDENT | {"drop_path_rate": 0.3})
    assert student.config.drop_path_rate == 0.3 and student.num_parameters() == make_student().num_parameters()
    assert student.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_from_stage1(dtype, tmp_path, warnings_of_transformers):
    source = make_student().to(dtype)
    source.save_pretrained(tmp_path)
    student = load_student(str(tmp_path), {"drop_path_rate": 0.2})
    assert student.dtype == torch.float32 and student.config.drop_path_rate == 0.2
    for name, tensor in source.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor.float())
    assert not warnings_of_transformers()


def test_a_student_from_a_classifier_has_new_decoders(tmp_path, warnings_of_transformers, capsys):
    """What is newly initialised is named in a line: the head is dropped silently."""
    torch.manual_seed(5)
    classifier = UMTForVideoClassification(UMTConfig(**STUDENT, num_labels=7))
    classifier.save_pretrained(tmp_path)
    student = load_student(str(tmp_path), {"target_dim": 24})
    assert same_encoder(student, classifier.umt)
    assert student.config.final_norm == "tokens" and student.umt.norm.weight.eq(1).all()
    assert len(student.decoders) == 2 and student.decoders[0].projection.weight.shape == (24, 32)
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    names = [f"decoders.{layer}.{part}" for layer in range(2) for part in ("norm", "projection")]
    assert capsys.readouterr().out == f"new weights: {', '.join([*names, 'umt.norm'])}\n"
    assert not warnings_of_transformers()
    inputs = torch.randn(1, 2, 3, 64, 64)
    assert student(inputs).student_features.shape == (1, 2, 32, 24)


def test_a_student_from_a_bare_encoder(tmp_path):
    torch.manual_seed(5)
    encoder = UMTModel(UMTConfig(**STUDENT))
    encoder.save_pretrained(tmp_path)
    student = load_student(str(tmp_path), {})
    assert same_encoder(student, encoder) and torch.equal(student.umt.norm.weight, encoder.norm.weight)


def test_a_student_from_official_files(tmp_path, warnings_of_transformers):
    torch.manual_seed(5)
    source = UMTForPreTraining(UMTConfig(**PUBLISHED_WIDTH))
    path = tmp_path / "b16_ptk710_f8_res224.pth"  # a published name: others may be towers, and are warned about
    torch.save({"model": official_state_dict(source)}, path)
    # the file does not contain the size of clips
    size = {"image_size": 64, "num_frames": 2, "drop_path_rate": 0.1}
    student = load_student(str(path), size)
    assert student.config.drop_path_rate == 0.1 and student.config.num_aligned_layers == 1
    for name, tensor in source.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor), name
    assert not warnings_of_transformers()
    assert torch.isfinite(student(torch.randn(1, 2, 3, 64, 64)).student_features).all()

    classifier = UMTForVideoClassification(UMTConfig(**PUBLISHED_WIDTH | {"num_frames": 8, "image_size": 224}))
    torch.save(official_state_dict(classifier), tmp_path / "classifier.pth")
    size = {"image_size": 64, "num_frames": 2, "num_aligned_layers": 1, "target_dim": 16}
    student = load_student(str(tmp_path / "classifier.pth"), size)
    assert same_encoder(student, classifier.umt) and len(student.decoders) == 1


def test_a_student_from_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*nowhere\.pth.* does not exist"):
        load_student(str(tmp_path / "nowhere.pth"), {})


def test_facts_for_the_card():
    facts = run_facts(PreTrainingRun(data="videos", teacher="openai/clip"))
    assert (facts.data, facts.eval_data, facts.starts, facts.license) == (("videos",), None, (), None)
    assert facts.settings == {"started from": None, "teacher": "openai/clip"}
    assert run_facts(PreTrainingRun(data="videos", init_from="start")).starts == ("start",)


# --- the teacher ----------------------------------------------------------------------------------------------------


def teacher_of(path, student: UMTConfig | None = None, image_size: int = 56):
    student = student or UMTConfig(**STUDENT)
    teacher = load_teacher(str(path), student, image_size)
    check_teacher_fits(student, teacher.config)
    assert not teacher.training
    return teacher


def test_a_saved_teacher(tmp_path, warnings_of_transformers):
    """Its aligned layers and their normalisation follow from the student, not from the folder."""
    source = make_teacher(num_aligned_layers=1, target_norm="none")
    source.save_pretrained(tmp_path)
    teacher = teacher_of(tmp_path)
    assert type(teacher) is UMTTeacherModel and not warnings_of_transformers()
    clip = torch.randn(1, 2, 3, 56, 56)
    with torch.no_grad():
        features, expected = teacher(clip).features, source.eval()(clip).features
    assert features.shape == (1, 2, 32, 16)
    torch.testing.assert_close(features[:, -1:], torch.nn.functional.normalize(expected, dim=-1))


def test_clip_with_both_towers(tmp_path, warnings_of_transformers):
    torch.manual_seed(4)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    clip = CLIPModel(
        CLIPConfig(
            vision_config={**sizes, "image_size": 28, "patch_size": 14},
            text_config={**sizes, "vocab_size": 99, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
            projection_dim=16,
        )
    )
    clip.save_pretrained(tmp_path)
    teacher = teacher_of(tmp_path)
    assert type(teacher) is UMTTeacherModel and teacher.config.image_size == 56
    assert torch.equal(teacher.projection.weight, clip.visual_projection.weight)
    assert not warnings_of_transformers()


OTHER_FAMILIES = [
    (Dinov2Model, UMTDinov2Teacher, {"image_size": 28, "mlp_ratio": 2}),
    (DINOv3ViTModel, UMTDinov3Teacher, {"num_register_tokens": 4}),
    (SiglipVisionModel, UMTSiglipTeacher, {"image_size": 28}),
    (Siglip2VisionModel, UMTSiglipTeacher, {"num_patches": 4}),
]


@pytest.mark.parametrize("model_class, teacher_class, fields", OTHER_FAMILIES)
def test_other_families(tmp_path, warnings_of_transformers, model_class, teacher_class, fields):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 14}
    model_class(model_class.config_class(**sizes, **fields)).save_pretrained(tmp_path)
    teacher = teacher_of(tmp_path, UMTConfig(**STUDENT | {"target_dim": 32}))
    assert type(teacher) is teacher_class and not warnings_of_transformers()
    with torch.no_grad():
        assert teacher(torch.randn(1, 2, 3, 56, 56)).features.shape == (1, 2, 32, 32)


def test_an_official_teacher_follows_the_student_too(tmp_path):
    """Layers, normalisation and image size; the position table of 14 x 14 tokens becomes one of 4 x 4."""
    torch.manual_seed(6)
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 64, "projection_dim": 16}
    config = UMTTeacherConfig(image_size=224, patch_size=16, num_hidden_layers=6, **sizes)
    state = official_state_dict(UMTTeacherModel(config))
    torch.save(state, tmp_path / "vit.pth")
    student = UMTConfig(**STUDENT | {"target_norm": "none"})
    teacher = teacher_of(tmp_path / "vit.pth", student, image_size=64)
    expected_fields = {"image_size": 64, "num_aligned_layers": 2, "target_norm": "none"}
    assert {key: getattr(teacher.config, key) for key in expected_fields} == expected_fields
    expected = convert_umt_checkpoint(state, UMTTeacherConfig.from_dict(config.to_dict() | expected_fields))
    clip = some_clips(1).float() / 255
    with torch.no_grad():
        assert torch.equal(teacher(clip).features, expected(clip).features)


def test_families_without_an_adapter(tmp_path):
    make_student().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a 'umt' model; a teacher is a CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3"):
        teacher_of(tmp_path)
