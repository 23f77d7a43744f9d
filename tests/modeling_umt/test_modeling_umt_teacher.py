"""The teachers: recorded values, CLIP's own values, masks, the attention row, and sources of weights.

Tests of all teachers run for CLIP and for the other families, whose own values are tested in separate files. The
battery has a row for `UMTTeacherModel`.
"""

import functools
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import load_recorded
from recorded_models import sub_state, teacher_config
from subprocess_tools import complaints, run_clean
from torch.nn import functional as F
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)

from modeling_umt import UMTDinov2Teacher, UMTDinov3Teacher, UMTSiglipTeacher, UMTTeacherModel, convert_umt_checkpoint
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.teacher_forward_umt import patch_tokens, prepare_frames
from modeling_umt.token_selection_umt import attention_token_selection, visible_indices_from_mask

TOLERANCE = {"rtol": 0, "atol": 1e-5}
IMPLEMENTATIONS = ("eager", "sdpa")
DIM, DEPTH, HEADS, FEATURES = 32, 3, 4, 24
FIELDS = {"num_aligned_layers": 2, "aligned_layer_interval": 1.5}


@torch.no_grad()
def randomized(model):
    """The model with all weights random, so that no term is zero or one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def clip_model(image_size: int = 64, projection_dim: int = FEATURES, words: int = 50, **vision) -> CLIPModel:
    """A tiny CLIP with patches of 16 pixels."""
    sizes = {"hidden_size": DIM, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 48}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text |= {"vocab_size": words, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**sizes, "image_size": image_size, "patch_size": 16, "projection_dim": projection_dim, **vision}
    torch.manual_seed(0)
    return randomized(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection_dim)))


def dinov2_model(**fields) -> Dinov2Model:
    """A tiny DINOv2 with patches of 16 pixels."""
    sizes = {"hidden_size": DIM, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "mlp_ratio": 2}
    torch.manual_seed(0)
    return randomized(Dinov2Model(Dinov2Config(**{**sizes, "image_size": 64, "patch_size": 16, **fields})))


def other_model(model_class, **fields):
    """A tiny DINOv3 or SigLIP with patches of 16 pixels."""
    sizes = {"hidden_size": DIM, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 48}
    torch.manual_seed(0)
    return randomized(model_class(model_class.config_class(**sizes, patch_size=16, **fields)))


BACKBONES = {
    "dinov2": lambda: UMTDinov2Teacher(dinov2_model(), image_size=64, **FIELDS),
    "dinov3": lambda: UMTDinov3Teacher(other_model(DINOv3ViTModel, num_register_tokens=2), image_size=64, **FIELDS),
    "siglip": lambda: UMTSiglipTeacher(other_model(SiglipVisionModel, image_size=48), image_size=64, **FIELDS),
    "siglip2": lambda: UMTSiglipTeacher(other_model(Siglip2VisionModel, num_patches=9), image_size=64, **FIELDS),
}


def clip_folder(folder, **fields) -> str:
    clip_model(**fields).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(params=["clip", *BACKBONES])
def teacher(request, folder):
    """A teacher of each family for frames of 64 x 64 pixels: 4 x 4 tokens, layers 1 and 2."""
    if request.param == "clip":
        return UMTTeacherModel.from_clip(folder, image_size=64, **FIELDS)
    return BACKBONES[request.param]().eval()


def clips(batch: int = 2, frames: int = 3, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


def random_mask(visible: int = 20, batch: int = 2, tokens: int = 48) -> torch.Tensor:
    """True = hidden; frames keep different numbers of tokens."""
    order = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    return torch.ones(batch, tokens, dtype=torch.bool).scatter(1, order[:, :visible], False)


# --- recorded values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["clip_teacher_l2", "clip_teacher_none_interval", "clip_teacher_pos_interp"])
def test_recorded_teachers(name, implementation):
    recorded, tensors = load_recorded(name)
    model = convert_umt_checkpoint(sub_state(tensors, "state/"), teacher_config(recorded["constructor"]))
    model.set_attn_implementation(implementation)
    assert type(model) is UMTTeacherModel and not model.training
    assert model.aligned_layers == sorted(recorded["return_index"])
    with torch.no_grad():
        outputs = model(tensors["input/video"].transpose(1, 2))
    torch.testing.assert_close(outputs.features.transpose(0, 1), tensors["expected/features"], **TOLERANCE)
    if recorded["constructor"]["return_attn"]:
        torch.testing.assert_close(outputs.cls_attention.flatten(0, 1), tensors["expected/attention"], **TOLERANCE)
    if "expected/loaded_positional_embedding" in tensors:
        table = model.embeddings.position_embeddings
        torch.testing.assert_close(table, tensors["expected/loaded_positional_embedding"], **TOLERANCE)
        kernel = tensors["expected/loaded_conv1_weight"].flatten(1)
        torch.testing.assert_close(model.embeddings.patch_embeddings.weight, kernel, rtol=0, atol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_recorded_stage1_targets(implementation):
    """A clip of 64 pixels for a tower of 56, as 224 is for 196: resized inside the model."""
    recorded, tensors = load_recorded("stage1_loss_l2")
    config = teacher_config(recorded["teacher"])
    model = convert_umt_checkpoint(sub_state(tensors, "state/teacher."), config)
    model.set_attn_implementation(implementation)
    clip = tensors["input/video"].transpose(1, 2)
    assert (clip.shape[-1], config.image_size) == (64, 56)
    frames = prepare_frames(clip, config, interpolate_pos_encoding=False)
    resized = tensors["expected/teacher_video"].transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(frames, resized, **TOLERANCE)
    with torch.no_grad():
        unmasked, masked = model(clip), model(clip, bool_masked_pos=tensors["expected/mask"])
    attention = tensors["expected/teacher_attention"]
    for outputs in (unmasked, masked):
        torch.testing.assert_close(outputs.cls_attention.flatten(0, 1), attention, **TOLERANCE)
    torch.testing.assert_close(unmasked.features.transpose(0, 1), tensors["expected/teacher_features"], **TOLERANCE)
    torch.testing.assert_close(masked.features.transpose(0, 1), tensors["expected/teacher_targets"], **TOLERANCE)


# --- CLIP in Transformers' layout -----------------------------------------------------------------------------------


def official_tower(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """CLIP's vision tower in the layout of the official extraction."""
    tower = clip.vision_model
    state = {
        "conv1.weight": tower.embeddings.patch_embedding.weight,
        "class_embedding": tower.embeddings.class_embedding,
        "positional_embedding": tower.embeddings.position_embedding.weight,
        "proj": clip.visual_projection.weight.T,
    }
    for kind in ("weight", "bias"):
        state[f"ln_pre.{kind}"] = getattr(tower.pre_layrnorm, kind)
        state[f"ln_post.{kind}"] = getattr(tower.post_layernorm, kind)
        for i, layer in enumerate(tower.encoder.layers):
            attention, block = layer.self_attn, f"transformer.resblocks.{i}"
            packed = [
                getattr(projection, kind) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            ]
            state[f"{block}.attn.in_proj_{kind}"] = torch.cat(packed)
            state[f"{block}.attn.out_proj.{kind}"] = getattr(attention.out_proj, kind)
            state[f"{block}.ln_1.{kind}"] = getattr(layer.layer_norm1, kind)
            state[f"{block}.ln_2.{kind}"] = getattr(layer.layer_norm2, kind)
            state[f"{block}.mlp.c_fc.{kind}"] = getattr(layer.mlp.fc1, kind)
            state[f"{block}.mlp.c_proj.{kind}"] = getattr(layer.mlp.fc2, kind)
    return {key: tensor.detach() for key, tensor in state.items()}


@pytest.mark.parametrize("image_size", [64, 96, 48], ids=str)
def test_from_clip_equals_the_official_extraction(folder, image_size):
    ours = UMTTeacherModel.from_clip(folder, image_size=image_size, **FIELDS)
    theirs = convert_umt_checkpoint(official_tower(CLIPModel.from_pretrained(folder)), ours.config)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor), key
    side = image_size // 16
    assert ours.embeddings.position_embeddings.shape == (1 + side**2, DIM) and not ours.training
    with torch.no_grad():
        actual, expected = ours(clips()), theirs(clips())
    assert torch.equal(actual.features, expected.features)
    assert torch.equal(actual.cls_attention, expected.cls_attention)


def clips_own(clip: CLIPModel, video: torch.Tensor, layers: list[int], **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, K, N, F) and attention row (B, T, S) by Transformers' CLIP with explicit attention."""
    clip.set_attn_implementation("eager")
    tower = clip.vision_model
    with torch.no_grad():
        outputs = tower(video.flatten(0, 1), output_hidden_states=True, output_attentions=True, **kwargs)
        states = [outputs.hidden_states[1 + layer][:, 1:].unflatten(0, video.shape[:2]) for layer in layers]
        features = [clip.visual_projection(tower.post_layernorm(state)).flatten(1, 2) for state in states]
    row = outputs.attentions[-1].mean(dim=1)[:, 0, 1:]
    return torch.stack(features, dim=1), row.unflatten(0, video.shape[:2])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_features_and_attention_are_those_of_transformers(tmp_path, hidden_act, implementation):
    path = clip_folder(tmp_path, hidden_act=hidden_act, layer_norm_eps=1e-3)
    model = UMTTeacherModel.from_clip(path, image_size=64, **FIELDS)
    model.set_attn_implementation(implementation)
    assert model.aligned_layers == [1, 2]
    features, attention = clips_own(CLIPModel.from_pretrained(path), clips(), layers=[1, 2])
    with torch.no_grad():
        outputs = model(clips())
        model.config.target_norm = "none"
        unscaled = model(clips()).features
    torch.testing.assert_close(unscaled, features, **TOLERANCE)
    torch.testing.assert_close(outputs.features, features / features.norm(dim=-1, keepdim=True), **TOLERANCE)
    torch.testing.assert_close(outputs.cls_attention, attention, **TOLERANCE)


def test_the_attention_row_is_that_of_the_complete_map(folder):
    model = UMTTeacherModel.from_clip(folder, image_size=64, **FIELDS)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(clips(), output_attentions=True)
    assert len(outputs.attentions) == DEPTH and outputs.attentions[-1].shape == (6, HEADS, 17, 17)
    row = outputs.attentions[-1].mean(dim=1)[:, 0, 1:].unflatten(0, (2, 3))
    torch.testing.assert_close(outputs.cls_attention, row, rtol=0, atol=1e-6)
    # the class token's weight for itself is cut off, nothing is renormalised
    own = outputs.attentions[-1].mean(dim=1)[:, 0, 0].unflatten(0, (2, 3))
    assert own.min() > 1e-3
    torch.testing.assert_close(outputs.cls_attention.sum(-1), 1 - own, rtol=0, atol=1e-6)


def test_from_clip_reads_the_architecture(tmp_path):
    vision = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40}
    path = clip_folder(tmp_path, image_size=32, projection_dim=20, hidden_act="gelu", layer_norm_eps=1e-4, **vision)
    config = UMTTeacherModel.from_clip(path, target_norm="none", num_aligned_layers=3).config
    assert {name: getattr(config, name) for name in vision} == vision
    assert (config.projection_dim, config.hidden_act, config.layer_norm_eps) == (20, "gelu", 1e-4)
    assert (config.patch_size, config.image_size) == (16, 224)  # 14 patches a side, whatever CLIP's size
    assert (config.target_norm, config.num_aligned_layers) == ("none", 3)


def test_from_clip_takes_the_dimension_of_the_weights(tmp_path):
    """In some published configurations only the outer `projection_dim` is correct."""
    path = clip_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["projection_dim"] = 512
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert UMTTeacherModel.from_clip(path, **FIELDS).projection.weight.shape == (FEATURES, DIM)


def test_from_clip_takes_a_vision_tower_alone(folder, tmp_path):
    CLIPVisionModelWithProjection.from_pretrained(folder).save_pretrained(tmp_path)
    alone, complete = UMTTeacherModel.from_clip(tmp_path, **FIELDS), UMTTeacherModel.from_clip(folder, **FIELDS)
    for key, tensor in complete.state_dict().items():
        assert torch.equal(alone.state_dict()[key], tensor), key


def test_from_clip_converts_half_precision_to_float32(folder, tmp_path):
    CLIPModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(tmp_path)
    model = UMTTeacherModel.from_clip(tmp_path, image_size=96, **FIELDS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    official = official_tower(CLIPModel.from_pretrained(tmp_path, dtype=torch.float32))
    table = convert_umt_checkpoint(official, model.config).embeddings.position_embeddings
    assert torch.equal(model.embeddings.position_embeddings, table)  # resized in float32, not rounded again


@pytest.mark.parametrize(
    "from_pretrained",
    [
        UMTTeacherModel.from_clip,
        UMTDinov2Teacher.from_pretrained,
        UMTDinov3Teacher.from_pretrained,
        UMTSiglipTeacher.from_pretrained,
    ],
)
def test_other_models_are_refused(from_pretrained, tmp_path):
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    ).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"contains a 'bert' model; a (CLIP|DINOv2|DINOv3 ViT|SigLIP or SigLIP 2) checkpoint.*expected, e.g.",
    ):
        from_pretrained(tmp_path)


def test_a_tower_without_projection_is_refused(folder, tmp_path):
    CLIPVisionModel.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \d+ weights.*'visual_projection.weight'.*CLIPModel"):
        UMTTeacherModel.from_clip(tmp_path, **FIELDS)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux' /proc")
def test_the_text_tower_is_not_loaded_and_not_reported(tmp_path):
    # half precision, because a float32 model would be mapped rather than read
    clip_model(words=2**20).half().save_pretrained(tmp_path / "large")  # 64 MiB of text embeddings once in float32
    clip_model().half().save_pretrained(tmp_path / "small")
    result = run_clean(
        """
        import json, re
        from pathlib import Path
        import torch
        from transformers import CLIPModel
        from modeling_umt import UMTTeacherModel

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024  # MiB

        def growth(load):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is now
            before = peak()
            load()
            return peak() - before

        UMTTeacherModel.from_clip("small", num_aligned_layers=1)  # loads the code too
        ours = growth(lambda: UMTTeacherModel.from_clip("large", num_aligned_layers=1))
        complete = growth(lambda: CLIPModel.from_pretrained("large", dtype=torch.float32))
        print(json.dumps([ours, complete]))
        """,
        cwd=tmp_path,
        allow_umt=True,
    )
    assert result.returncode == 0, result.stderr
    ours, complete = json.loads(result.stdout.splitlines()[-1])
    assert ours < 16 and complete > 60, (ours, complete)
    assert complaints(result.stderr) == []
    for word in ("text_model", "REPORT", "UNEXPECTED"):
        assert word not in result.stderr


def test_a_saved_teacher_is_found_by_auto_model(folder, tmp_path):
    model = UMTTeacherModel.from_clip(folder, image_size=64, **FIELDS)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is UMTTeacherModel and not any(info.values()), info
    with torch.no_grad():
        assert torch.equal(loaded(clips()).features, model(clips()).features)
    back = official_state_dict(loaded)
    for key, tensor in official_tower(CLIPModel.from_pretrained(folder)).items():
        assert torch.equal(back[key], tensor), key


# --- masks ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_three_ways_to_give_one_mask(teacher):
    hidden = random_mask()
    indices = visible_indices_from_mask(hidden)
    seen = []

    def selector(cls_attention):
        seen.append(cls_attention)
        return indices

    unmasked = teacher(clips())
    assert unmasked.features.shape == (2, 2, 48, unmasked.features.shape[-1]) and unmasked.visible_indices is None
    masks = ({"bool_masked_pos": hidden}, {"visible_indices": indices}, {"token_selector": selector})
    for outputs in [teacher(clips(), **mask) for mask in masks]:
        assert torch.equal(outputs.visible_indices, indices)
        assert torch.equal(outputs.cls_attention, unmasked.cls_attention)
        for sample in range(2):
            rows = unmasked.features[sample][:, ~hidden[sample]]  # (K, V, F)
            torch.testing.assert_close(outputs.features[sample], rows, rtol=0, atol=1e-6)
    assert [attention.shape for attention in seen] == [(2, 3, 16)] and torch.equal(seen[0], unmasked.cls_attention)


def pixels_of(tokens: torch.Tensor) -> torch.Tensor:
    """A bool per token (B, N) to a bool per pixel (B, T, 1, H, W)."""
    grid = tokens.view(len(tokens), 3, 1, 4, 4)
    return grid.repeat_interleave(16, dim=-1).repeat_interleave(16, dim=-2)


@torch.no_grad()
def test_hidden_tokens_are_attended_to(teacher):
    hidden = random_mask(visible=2)
    before = teacher(clips(), bool_masked_pos=hidden)
    after = teacher(torch.where(pixels_of(hidden), clips() + 1, clips()), bool_masked_pos=hidden)
    assert (after.features - before.features).abs().amax(dim=(-1, -3)).min() > 1e-3  # every visible token
    assert (after.cls_attention - before.cls_attention).abs().max() > 1e-3


@torch.no_grad()
def test_frames_do_not_see_each_other(teacher):
    clip = clips()
    clip[:, 1] += 1
    before, after = teacher(clips()), teacher(clip)
    same = (before.features == after.features).unflatten(2, (3, 16)).all(dim=-1).all(dim=-1).all(dim=1)  # (B, T)
    assert same.tolist() == [[True, False, True]] * 2


@torch.no_grad()
def test_the_selector_is_a_strategy_with_its_arguments(teacher):
    seeds = torch.tensor([3, 2**40])
    selector = functools.partial(attention_token_selection, mask_ratio=0.8, sample_seeds=seeds)
    outputs = teacher(clips(), token_selector=selector)
    assert torch.equal(outputs.visible_indices, selector(teacher(clips()).cls_attention))
    assert outputs.features.shape[:3] == (2, 2, 12)


@given(data=st.data(), batch=st.integers(1, 3), frames=st.integers(1, 4), per_frame=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_patches_are_picked_past_the_class_tokens(data, batch, frames, per_frame):
    tokens = torch.arange(batch * frames * (1 + per_frame)).view(batch * frames, 1 + per_frame, 1)
    patches = tokens.view(batch, frames, 1 + per_frame)[:, :, 1:].reshape(batch, -1, 1)
    assert torch.equal(patch_tokens(tokens, frames, None), patches)
    visible = data.draw(st.integers(1, frames * per_frame))
    draw = st.lists(st.integers(0, frames * per_frame - 1), min_size=visible, max_size=visible, unique=True)
    indices = torch.tensor([sorted(data.draw(draw)) for _ in range(batch)])
    expected = torch.stack([rows[picked] for rows, picked in zip(patches, indices, strict=True)])
    assert torch.equal(patch_tokens(tokens, frames, indices), expected)


# --- computation that is left out -----------------------------------------------------------------------------------


@torch.no_grad()
def test_hidden_tokens_are_never_projected(folder):
    model = UMTTeacherModel.from_clip(folder, image_size=64, **FIELDS)
    shapes = {}
    for name, module in model.named_modules():
        if name in ("projection", "post_norm") or name.endswith((".mlp", ".attention")):
            module.register_forward_hook(
                lambda _, args, output, n=name: shapes.setdefault(n, []).append(args[0].shape)
            )
    model(clips(), bool_masked_pos=random_mask(visible=20))
    assert shapes.pop("projection") == shapes.pop("post_norm") == [(2, 20, DIM)] * 2
    assert shapes.pop("layers.2.mlp") == [(2, 20, DIM)]
    assert set(map(str, shapes.values())) == {str([torch.Size([6, 17, DIM])])} and len(shapes) == 5


@torch.no_grad()
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_last_layer_at_visible_tokens_equals_the_complete_one(folder, implementation):
    """With `output_hidden_states` the last layer is computed for all tokens, with the same features."""
    model = UMTTeacherModel.from_clip(folder, image_size=64, **FIELDS)
    model.set_attn_implementation(implementation)
    indices = visible_indices_from_mask(random_mask())
    for mask in ({}, {"visible_indices": indices}):
        complete, selected = model(clips(), output_hidden_states=True, **mask), model(clips(), **mask)
        assert [state.shape for state in complete.hidden_states] == [(6, 17, DIM)] * (1 + DEPTH)
        torch.testing.assert_close(selected.features, complete.features, rtol=0, atol=1e-6)
        by_hand = [
            model.project(patch_tokens(complete.hidden_states[1 + layer], 3, mask.get("visible_indices")))
            for layer in model.aligned_layers
        ]
        expected = F.normalize(torch.stack(by_hand, dim=1), dim=-1)
        torch.testing.assert_close(complete.features, expected, rtol=0, atol=1e-6)
    model.config.output_hidden_states = True
    assert model(clips(), visible_indices=indices).hidden_states[-1].shape == (6, 17, DIM)


def test_a_forward_pass_changes_no_weight(teacher):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    for training in (True, False):
        teacher.train(training)(clips(), bool_masked_pos=random_mask()).features.sum().backward()
        assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_nothing_is_saved_for_gradients_under_no_grad(teacher):
    def saved(**mask):
        tensors = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensors.append(tensor) or tensor, lambda t: t):
            outputs = teacher(clips(), **mask)
        return len(tensors), outputs.features.requires_grad, outputs.cls_attention.requires_grad

    with torch.no_grad():
        assert saved(bool_masked_pos=random_mask()) == saved() == (0, False, False)
    assert saved()[0] > 0 and saved()[1]
    teacher.requires_grad_(False)
    assert saved(bool_masked_pos=random_mask()) == (0, False, False)


# --- sizes ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(80, 80), (48, 96), (61, 67)])
def test_clips_of_another_size_are_resized(teacher, height, width):
    clip = clips(height=height, width=width)
    frames = F.interpolate(clip.flatten(0, 1), size=(64, 64), mode="bicubic", align_corners=False)
    actual, expected = teacher(clip), teacher(frames.unflatten(0, (2, 3)))
    assert torch.equal(actual.features, expected.features)
    assert torch.equal(actual.cls_attention, expected.cls_attention)


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(64, 64), (96, 96), (48, 80), (80, 48), (16, 112)])
def test_the_position_table_is_resized_on_request(folder, height, width):
    model = UMTTeacherModel.from_clip(folder, image_size=64, target_norm="none", **FIELDS)
    clip = clips(height=height, width=width)
    features, attention = clips_own(
        CLIPModel.from_pretrained(folder), clip, layers=[1, 2], interpolate_pos_encoding=True
    )
    outputs = model(clip, interpolate_pos_encoding=True)
    tokens = height * width // 256
    assert outputs.cls_attention.shape == (2, 3, tokens) and outputs.features.shape == (2, 2, 3 * tokens, FEATURES)
    torch.testing.assert_close(outputs.features, features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.cls_attention, attention, **TOLERANCE)
    if height == width:  # the same as a model created for that size
        specialised = UMTTeacherModel.from_clip(folder, image_size=height, target_norm="none", **FIELDS)
        torch.testing.assert_close(specialised(clip).features, outputs.features, rtol=0, atol=1e-6)
    masked = model(clip, interpolate_pos_encoding=True, visible_indices=torch.tensor([[0, 3 * tokens - 1]] * 2))
    torch.testing.assert_close(masked.features, outputs.features[:, :, [0, -1]], rtol=0, atol=1e-6)


# --- errors ---------------------------------------------------------------------------------------------------------

WRONG_CLIPS = {
    "bytes": (torch.zeros(2, 3, 3, 64, 64, dtype=torch.uint8), r"floating point .* torch.uint8 \(2, 3, 3, 64, 64\)"),
    "no batch": (torch.zeros(3, 3, 64, 64), r"\(batch, frames, 3 channels, height, width\).*\(3, 3, 64, 64\)"),
    "channels first": (torch.zeros(2, 3, 4, 64, 64), r"\(batch, frames, 3 channels.*\(2, 3, 4, 64, 64\)"),
    "grey": (torch.zeros(2, 3, 1, 64, 64), r"3 channels.*\(2, 3, 1, 64, 64\)"),
    "no frames": (torch.zeros(2, 0, 3, 64, 64), r"not empty.*\(2, 0, 3, 64, 64\)"),
    "no pixels": (torch.zeros(2, 3, 3, 0, 64), r"not empty.*\(2, 3, 3, 0, 64\)"),
}


@pytest.mark.parametrize("wrong", WRONG_CLIPS)
@pytest.mark.parametrize("interpolate", [False, True])
def test_wrong_clips_are_refused(teacher, wrong, interpolate):
    clip, message = WRONG_CLIPS[wrong]
    with pytest.raises(ValueError, match=message):
        teacher(clip, interpolate_pos_encoding=interpolate)


@pytest.mark.parametrize("height, width", [(60, 64), (64, 72)])
def test_pixels_that_patches_do_not_divide_are_refused_without_resizing(teacher, height, width):
    with pytest.raises(ValueError, match=rf"multiples of `patch_size` 16, .* {height} x {width} pixels"):
        teacher(clips(height=height, width=width), interpolate_pos_encoding=True)


MASKS = {
    "bool_masked_pos": random_mask(),
    "visible_indices": visible_indices_from_mask(random_mask()),
    "token_selector": functools.partial(attention_token_selection, mask_ratio=0.5),
}


@pytest.mark.parametrize("left_out", [None, *MASKS])
def test_more_than_one_mask_is_refused(teacher, left_out):
    masks = {name: mask for name, mask in MASKS.items() if name != left_out}
    with pytest.raises(ValueError, match="at most one of `bool_masked_pos`, `visible_indices` and `token_selector`"):
        teacher(clips(), **masks)


WRONG_MASKS = {
    "another grid": (
        random_mask(tokens=27),
        r"tokens 48\), True = hidden, but is torch.bool \(2, 27\).*token grids are the same",
    ),
    "another batch": (random_mask(batch=3), r"bool \(batch 2, tokens 48\), .* is torch.bool \(3, 48\)"),
    "floats": (random_mask().float(), r"must be bool .* torch.float32 \(2, 48\)"),
    "per frame": (random_mask().view(2, 3, 16), r"bool \(batch 2, tokens 48\), .* is torch.bool \(2, 3, 16\)"),
    "unequal": (torch.arange(48).repeat(2, 1) < torch.tensor([[20], [21]]), r"\[28, 27\] visible of 48"),
    "everything": (torch.ones(2, 48, dtype=torch.bool), r"\[0, 0\] visible of 48"),
}
WRONG_INDICES = {
    "int32": (torch.zeros(2, 4, dtype=torch.int32), r"int64 \(batch 2, .*torch.int32 \(2, 4\)"),
    "a mask": (random_mask(), r"int64 \(batch 2, .*torch.bool \(2, 48\)"),
    "another batch": (torch.zeros(3, 4, dtype=torch.int64), r"batch 2, .*torch.int64 \(3, 4\)"),
    "flat": (torch.arange(4), r"batch 2, .*torch.int64 \(4,\)"),
    "none": (torch.zeros(2, 0, dtype=torch.int64), r"1 to 48 visible tokens\), but is torch.int64 \(2, 0\)"),
    "too many": (torch.zeros(2, 49, dtype=torch.int64), r"1 to 48 visible tokens\), but is torch.int64 \(2, 49\)"),
}


@pytest.mark.parametrize("wrong", WRONG_MASKS)
def test_wrong_masks_are_refused(teacher, wrong):
    mask, message = WRONG_MASKS[wrong]
    with pytest.raises(ValueError, match=message):
        teacher(clips(), bool_masked_pos=mask)


@pytest.mark.parametrize("wrong", WRONG_INDICES)
def test_wrong_indices_are_refused_given_or_selected(teacher, wrong):
    indices, message = WRONG_INDICES[wrong]
    with pytest.raises(ValueError, match=message):
        teacher(clips(), visible_indices=indices)
    if wrong != "too many":  # a selector may return several masks of a clip, side by side
        with pytest.raises(ValueError, match=message):
            teacher(clips(), token_selector=lambda cls_attention: indices)


@torch.no_grad()
def test_a_selector_may_return_more_indices_than_tokens(teacher):
    every_token_twice = torch.arange(48).repeat(2, 2)
    features = teacher(clips(), token_selector=lambda cls_attention: every_token_twice).features
    torch.testing.assert_close(features, teacher(clips()).features.repeat(1, 1, 2, 1), rtol=1e-5, atol=1e-5)


# --- precision and graphs -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(teacher, dtype):
    mask = {"bool_masked_pos": random_mask()}
    expected = teacher(clips(), **mask)
    with torch.autocast("cpu", dtype):
        automatic = teacher(clips(), **mask)
    half = teacher.to(dtype)(clips(), **mask)  # the clip is resized in float32, then rounded
    assert half.features.dtype == dtype
    for outputs in (automatic, half):
        assert outputs.cls_attention.dtype == torch.float32
        assert (outputs.features.float() - expected.features).norm() / expected.features.norm() < 0.03
        torch.testing.assert_close(outputs.cls_attention, expected.cls_attention, rtol=0, atol=5e-3)
        norms = outputs.features.float().norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-2)


def assert_all_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@torch.no_grad()
def test_compiles_into_one_graph_with_resizing_and_selection_inside(teacher):
    torch.compiler.reset()
    select = functools.partial(attention_token_selection, mask_ratio=0.8, sample_seeds=torch.tensor([5, -7]))
    clip = clips(height=80, width=80)
    compiled = torch.compile(teacher, fullgraph=True, backend="eager")
    outputs, expected = compiled(clip, token_selector=select), teacher(clip, token_selector=select)
    assert_all_close(outputs.to_tuple(), expected.to_tuple())


class SelectingTeacher(torch.nn.Module):
    """The teacher with the published token selection, as a function of clips and seeds."""

    def __init__(self, teacher: torch.nn.Module):
        super().__init__()
        self.teacher = teacher

    def forward(self, pixel_values_videos: torch.Tensor, sample_seeds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        select = functools.partial(attention_token_selection, mask_ratio=0.8, sample_seeds=sample_seeds)
        outputs = self.teacher(pixel_values_videos, token_selector=select)
        return outputs.features, outputs.cls_attention, outputs.visible_indices


@torch.no_grad()
def test_exports_with_the_selection_inside(teacher):
    selecting = SelectingTeacher(teacher)
    batch = torch.export.Dim("batch")
    program = torch.export.export(selecting, (clips(), torch.arange(2)), dynamic_shapes=({0: batch}, {0: batch}))
    for size in (2, 3):
        inputs = (clips(batch=size), torch.arange(size) + 9)
        assert_all_close(program.module()(*inputs), selecting(*inputs))
