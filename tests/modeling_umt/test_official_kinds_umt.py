"""Files of all published models, UMT's and others: converted as what they are, or refused by name."""

import re

import pytest
import torch
from full_size_keys import full_size_files

from modeling_umt import UMTConfig, convert_umt_checkpoint
from modeling_umt.convert_umt_checkpoints import KINDS, UnsupportedCheckpointError

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
    r"mvd/student_": ("MVD (a pre-trained student)",),
    r"mvd/video_teacher_|everest/pretrain_": ("VideoMAE or EVEREST (pre-training)",),
    r"mvd/image_teacher_": ("MAE or another ViT of single images",),
    r"(mvd|everest)/classifier_": ("cover 2 frames, as in MVD, VideoMAE and EVEREST",),
    r"internvideo2/mobileclip": ("MobileCLIP",),
    r"internvideo2/": ("InternVideo2",),
}


def outcome(name: str) -> str | tuple[str]:
    return next(outcome for pattern, outcome in OUTCOMES.items() if re.match(pattern, name))


def meta_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Tensors without values, except for those that a conversion compares."""
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
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
    shapes, _ = FILES[name]
    state, expected = meta_state(shapes), outcome(name)
    if isinstance(expected, tuple):
        error = ValueError if "classifier" in name and "internvideo2" not in name else UnsupportedCheckpointError
        with pytest.raises(error, match=re.escape(expected[0])):
            convert_umt_checkpoint(state)
        return
    model_class, config, ours = convert_umt_checkpoint(state)
    assert model_class.__name__ == expected
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
    with pytest.raises(ValueError, match=rf"tokens of this model cover {tubelet} frames.*Give a `config`"):
        convert_umt_checkpoint(meta_state(shapes))


def test_a_configuration_given_for_tokens_of_several_frames_keeps_its_position_grid(without_weights):
    for grid in (None, [4, 7, 7]):
        config = UMTConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
                           num_frames=16, tubelet_size=2, position_grid=grid)  # fmt: skip
        _, converted, _ = convert_umt_checkpoint(meta_state(FILES["mvd/classifier_b_k400"][0]), config)
        assert converted.position_grid == grid and converted.final_norm == "pooled"
