"""Files of all published models, UMT's and others: converted as what they are, or refused by name."""

import re

import pytest
import torch
from full_size_keys import full_size_files

from modeling_umt import UMTConfig, convert_umt_checkpoint
from modeling_umt.convert_umt_checkpoints import KINDS, UnsupportedCheckpointError
from modeling_umt.position_embeddings_umt import position_table

FILES = full_size_files()

# patterns of names, and the class of the model, or the name in the error
OUTCOMES = {
    r"umt/stage1_": "UMTForPreTraining",
    r"umt/classifier_": "UMTForVideoClassification",
    r"umt/ava_": "UMTForActionDetection",
    r"umt/teacher_": "UMTTeacherModel",
    r"umt/multimodal_pretrain_": "UMTForVideoTextPreTraining",
    r"umt/multimodal_retrieval_": "UMTVideoTextModel",
    r"umt/multimodal_vqa_": "UMTForVideoQuestionAnswering",
    r"mvd/student_|everest/pretrain_": "UMTForMaskedModeling",
    r"mvd/video_teacher_": "UMTModel",
    r"mvd/image_teacher_": "UMTImageTeacherModel",
    r"(mvd|everest)/classifier_": ("cover 2 frames, as in MVD, VideoMAE and EVEREST",),
    r"internvideo2/mobileclip": ("MobileCLIP",),
    r"internvideo2/clip_overlay": ("InternVideo2 without the blocks of its encoder",),
    r"internvideo2/classifier_": "InternVideo2ForVideoClassification",
    r"internvideo2/(distilled|stage1)_": "InternVideo2ForPreTraining",
    r"internvideo2/clip_vision_": "InternVideo2Model",
}


def outcome(name: str) -> str | tuple[str]:
    return next(outcome for pattern, outcome in OUTCOMES.items() if re.match(pattern, name))


def meta_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Tensors without values, except for those that a conversion compares."""
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    for key in [key for key in state if key.startswith("pos_embed") and "pos_embed_img" in state]:  # MVD's tables
        state[key] = position_table((8, 14, 14), state[key].shape[-1], None, position_type="space_time")[None]
    tied = [key for key in state if "word_embeddings" in key or "cls.predictions" in key]
    state |= {key: torch.zeros(()).expand(state[key].shape) for key in tied}
    return state | {key: torch.arange(t.numel())[None] for key, t in state.items() if key.endswith("position_ids")}


@pytest.fixture
def without_weights(monkeypatch):
    """`convert_umt_checkpoint` then returns `(class, config, tensors under our names)`."""

    def loaded(cls, path, config, state_dict, dtype):
        return cls, config, state_dict

    for kind in KINDS.values():
        monkeypatch.setattr(kind.model_class, "from_pretrained", classmethod(loaded))


@pytest.mark.parametrize("name", FILES)
def test_each_published_file_is_converted_as_what_it_is_or_refused_by_name(name, without_weights):
    shapes, record = FILES[name]
    state, expected = meta_state(shapes), outcome(name)
    if isinstance(expected, tuple):
        error = ValueError if "classifier" in name and "internvideo2" not in name else UnsupportedCheckpointError
        with pytest.raises(error, match=re.escape(expected[0])):
            convert_umt_checkpoint(state)
        return
    model_class, config, ours = convert_umt_checkpoint(state)
    assert model_class.__name__ == expected
    if not name.startswith("umt/"):  # the last norm of a teacher is left out
        unused = 2 * config.hidden_size if expected in ("UMTModel", "UMTImageTeacherModel") else 0
        expected_count = record.get("trainable_parameters", record["parameters"]) - unused
        assert sum(tensor.numel() for tensor in ours.values()) == expected_count
    if name.startswith("internvideo2/"):
        frames = 16 if "_f16" in name else 8
        assert (config.num_frames, config.image_size, config.patch_size) == (frames, 224, 14)
    elif not name.startswith("umt/") and expected != "UMTImageTeacherModel":
        frames, grid = (config.num_frames, config.tubelet_size), config.position_grid
        assert (frames, config.image_size, grid) == ((16, 2), 224, None)
    with torch.device("meta"):
        assert {key: t.shape for key, t in model_class(config).state_dict().items()} == {
            key: t.shape for key, t in ours.items()
        }


@pytest.mark.parametrize("head", ["fc_norm", "norm"], ids=["classifier", "action detection"])
@pytest.mark.parametrize("tubelet", [2, 4])
def test_tokens_of_several_frames_without_a_position_table_require_a_configuration(head, tubelet):
    """Of any size, also of classes, and of action detection models, which have no table either."""
    shapes = {key: shape for key, shape in FILES["mvd/classifier_b_k400"][0].items() if "fc_norm" not in key}
    shapes |= {f"{head}.weight": [768], f"{head}.bias": [768], "head.weight": [7, 768], "head.bias": [7]}
    shapes["patch_embed.proj.weight"] = [768, 3, tubelet, 16, 16]
    with pytest.raises(
        ValueError, match=rf"tokens of this model cover {tubelet} frames.*--position-type.*or a `config`"
    ):
        convert_umt_checkpoint(meta_state(shapes))


@pytest.mark.parametrize("name", [name for name in FILES if re.match("(mvd|everest)/classifier_", name)])
@pytest.mark.parametrize("position_type", ["flat", "space_time"])
def test_a_position_type_completes_each_published_classifier(name, position_type, without_weights):
    shapes, record = FILES[name]
    model_class, config, ours = convert_umt_checkpoint(meta_state(shapes), position_type=position_type)
    assert model_class.__name__ == "UMTForVideoClassification"
    assert sum(tensor.numel() for tensor in ours.values()) == record["parameters"]
    assert (config.position_type, config.position_grid, config.final_norm) == (position_type, None, "pooled")
    assert (config.num_frames, config.image_size, config.num_labels) == (16, 224, shapes["head.bias"][0])
    assert config.id2label[0] == "LABEL_0"  # their order of classes is not UMT's
    heads = {384: 6, 768: 12, 1024: 16, 1280: 16}
    assert config.num_attention_heads == heads[config.hidden_size]


@pytest.mark.parametrize("name", ["umt/classifier_b16", "umt/stage1_b16", "umt/teacher_clip_b16_224"])
def test_a_position_type_is_refused_where_the_table_is_known(name):
    with pytest.raises(ValueError, match=r"`position_type` 'flat' is only for .*; leave it out"):
        convert_umt_checkpoint(meta_state(FILES[name][0]), position_type="flat")


def test_a_position_type_beside_a_configuration_is_refused():
    with pytest.raises(ValueError, match="`position_type` or a `config`, which has one, not both"):
        convert_umt_checkpoint(meta_state(FILES["mvd/classifier_b_k400"][0]), UMTConfig(), position_type="flat")


@pytest.mark.parametrize(
    "fields", [{"position_grid": None}, {"position_grid": [4, 7, 7]}, {"position_type": "space_time"}]
)
def test_a_configuration_given_for_tokens_of_several_frames_keeps_its_table(fields, without_weights):
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    config = UMTConfig(**sizes, num_frames=16, tubelet_size=2, **fields)
    _, converted, _ = convert_umt_checkpoint(meta_state(FILES["mvd/classifier_b_k400"][0]), config)
    assert (converted.position_type, converted.position_grid) == (config.position_type, config.position_grid)
    assert converted.final_norm == "pooled"
