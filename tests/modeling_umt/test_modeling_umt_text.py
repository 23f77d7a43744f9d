"""Tests specific to the text encoder alone; parity with BERT and with recorded values is tested in the files of the
models that contain it.
"""

import pytest
import torch

from modeling_umt import UMTTextConfig, UMTTextModel

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "fusion_layer": 2}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 12, "encoder_width": 24}
SIZES |= {"cls_token_id": 2, "sep_token_id": 3, "mask_token_id": 4}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = UMTTextModel._from_config(UMTTextConfig(**SIZES), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def texts_and_videos(texts: int = 4, videos: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (texts, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 4, 5, 3])[:texts, None]
    return {
        "input_ids": ids.masked_fill(~mask, 0),
        "attention_mask": mask.long(),
        "encoder_hidden_states": torch.randn(videos, 7, 24, generator=generator),
    }


def test_self_attention_and_cross_attention_are_told_apart(model):
    with torch.no_grad():
        outputs = model(**texts_and_videos(4, 4), output_attentions=True, output_hidden_states=True)
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(4, 2, 6, 6)] * 4
    assert [tuple(weights.shape) for weights in outputs.cross_attentions] == [(4, 2, 6, 7)] * 2
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(4, 6, 32)] * 5
    for weights in (*outputs.attentions, *outputs.cross_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_cross_attention_of_texts_that_share_a_video_is_that_of_each_text(model):
    inputs = texts_and_videos()
    alone = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"].repeat_interleave(2, dim=0)}
    with torch.no_grad():
        shared, expected = model(**inputs, output_attentions=True), model(**alone, output_attentions=True)
    torch.testing.assert_close(shared.last_hidden_state, expected.last_hidden_state)
    for actual, weights in zip(shared.cross_attentions, expected.cross_attentions, strict=True):
        torch.testing.assert_close(actual, weights)


def test_without_a_video_the_lower_layers_alone_are_recorded(model):
    inputs = {name: tensor for name, tensor in texts_and_videos().items() if name != "encoder_hidden_states"}
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    assert len(outputs.hidden_states) == 3 and len(outputs.attentions) == 2 and not outputs.cross_attentions
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)


@pytest.mark.parametrize("method", ["forward", "encode", "fuse"])
def test_unknown_keywords_are_refused(model, method):
    inputs = texts_and_videos()
    arguments = {
        "forward": (inputs["input_ids"], inputs["attention_mask"]),
        "encode": (inputs["input_ids"], inputs["attention_mask"]),
        "fuse": (torch.zeros(4, 6, 32), inputs["attention_mask"], inputs["encoder_hidden_states"]),
    }[method]
    with pytest.raises(TypeError, match=rf"UMTTextModel.{method}\(\) got the unknown argument `is_causal`"):
        getattr(model, method)(*arguments, is_causal=True)
