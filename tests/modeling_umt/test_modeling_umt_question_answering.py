"""Question answering: recorded numbers, starting from stage 2, writing and ranking answers, loading without `umt`.

What every model class must do is in the battery.
"""

import json
import re
import textwrap

import pytest
import torch
from recorded import load_recorded
from subprocess_tools import complaints, run_clean

from modeling_umt import (
    UMTConfig,
    UMTForVideoQuestionAnswering,
    UMTForVideoTextPreTraining,
    UMTTextConfig,
    UMTVideoTextConfig,
    convert_umt_checkpoint,
)
from modeling_umt.official_layout_umt import official_state_dict
from umt_training.runs.retrieval_run import RetrievalRun, load_retrieval_model

TOLERANCE = {"rtol": 0, "atol": 1e-5}
VISION = {"image_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"intermediate_size": 32, "num_aligned_layers": 1, "target_dim": 8, "num_frames": 2}
TEXT = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "fusion_layer": 2}
TEXT |= {"intermediate_size": 32, "max_position_embeddings": 12}
TEXT |= {"cls_token_id": 2, "mask_token_id": 3, "sep_token_id": 4}


def config(**fields) -> UMTVideoTextConfig:
    return UMTVideoTextConfig(vision_config=VISION, text_config=TEXT, projection_dim=8, **fields)


def randomised(model):
    """The model with seeded random weights throughout, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomised(UMTForVideoQuestionAnswering(config()))


def questions(number: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(5, 30, (number, 6), generator=generator)
    words[:, 0], words[0, 4:] = 2, 0
    clips = torch.randn(number, 2, 3, 32, 32, generator=generator)
    return {"input_ids": words, "attention_mask": (words != 0).long(), "pixel_values_videos": clips}


ANSWERS = torch.tensor([[2, 9, 4, 0, 0], [2, 9, 8, 4, 0], [2, 7, 4, 0, 0], [2, 7, 9, 11, 4], [2, 5, 4, 0, 0]])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.detach().view_as(expected), expected, **TOLERANCE)


def state_of(tensors: dict) -> dict:
    return {key.removeprefix("state/"): tensor for key, tensor in tensors.items() if key.startswith("state/")}


def recorded_config(description: dict) -> UMTVideoTextConfig:
    recorded, ids = description["config"]["vision_encoder"], description["special_token_ids"]
    bert = description["config"]["text_encoder"]["bert_config"]
    vision = UMTConfig(
        image_size=recorded["img_size"],
        num_frames=recorded["num_frames"],
        hidden_size=recorded["encoder_embed_dim"],
        num_hidden_layers=recorded["encoder_depth"],
        num_attention_heads=recorded["encoder_num_heads"],
        intermediate_size=4 * recorded["encoder_embed_dim"],
        num_aligned_layers=1,
    )
    known = UMTTextConfig().to_dict().keys() - {"architectures", "model_type"}
    text = UMTTextConfig(
        **{key: value for key, value in bert.items() if key in known},
        **{f"{name}_token_id": ids[name] for name in ("cls", "mask", "sep")},
    )
    return UMTVideoTextConfig(vision_config=vision, text_config=text, projection_dim=16)


# --- recorded numbers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded_case():
    description, tensors = load_recorded("vqa")
    model = convert_umt_checkpoint(state_of(tensors), recorded_config(description))
    assert type(model) is UMTForVideoQuestionAnswering
    given = {key.removeprefix("input/"): tensor for key, tensor in tensors.items() if key.startswith("input/")}
    expected = {
        key.removeprefix("expected/"): tensor for key, tensor in tensors.items() if key.startswith("expected/")
    }
    asked = {
        "input_ids": given["question_ids"],
        "attention_mask": given["question_mask"],
        "pixel_values_videos": given["video"],
    }
    return description, model, given, asked, expected


@pytest.mark.parametrize("implementation", ("eager", "sdpa"))
def test_training_has_the_recorded_numbers(recorded_case, implementation):
    description, model, given, asked, expected = recorded_case
    model.set_attn_implementation(implementation)
    outputs = model(
        **asked,
        labels=given["answer_ids"],
        decoder_attention_mask=given["answer_mask"],
        answers_per_question=torch.tensor(description["k"]),
        answer_weights=given["weights"],
    )
    close(model.vision_model(given["video"]).last_hidden_state, expected["vision_embeds"])
    close(outputs.encoder_last_hidden_state, expected["question_states"])
    close(outputs.logits, expected["answer_logits"])
    close(outputs.answer_losses, expected["answer_loss"])
    close(outputs.loss, expected["loss"])


@pytest.mark.parametrize("implementation", ("eager", "sdpa"))
@pytest.mark.parametrize("name", ("topk", "ranked_all", "longer_than_the_list"))
def test_ranking_has_the_recorded_numbers(recorded_case, implementation, name):
    description, model, given, asked, expected = recorded_case
    model.set_attn_implementation(implementation)
    candidates = given["candidate_ids"]
    indices, scores = model.rank_answers(
        **asked,
        candidate_ids=candidates,
        candidate_attention_mask=given["candidate_mask"],
        k={"topk": description["k_test"], "ranked_all": len(candidates), "longer_than_the_list": 128}[name],
    )
    name = "topk" if name == "topk" else "ranked_all"
    assert torch.equal(indices, expected[f"{name}_ids"])
    close(scores, expected[f"{name}_probs"])


def test_the_official_layout_goes_back_bit_for_bit(recorded_case):
    _, model, *_ = recorded_case
    _, tensors = load_recorded("vqa")
    learned = {key: tensor for key, tensor in state_of(tensors).items() if not key.endswith("position_ids")}
    official = official_state_dict(model)
    assert official.keys() == learned.keys()
    assert all(torch.equal(official[key], tensor) for key, tensor in learned.items())


# --- starting from stage 2 ------------------------------------------------------------------------------------------


def test_every_weight_comes_from_where_the_official_loader_takes_it(tmp_path):
    maps, _ = load_recorded("multimodal_checkpoint_keys")
    stage2 = randomised(UMTForVideoTextPreTraining(config()))
    stage2.save_pretrained(tmp_path)
    source = official_state_dict(stage2)
    for start in (stage2, str(tmp_path)):
        model = UMTForVideoQuestionAnswering.from_video_text(start, num_frames=12, drop_path_rate=0.2)
        assert model.config.vision_config.num_frames == 12 and model.config.vision_config.drop_path_rate == 0.2
        official = official_state_dict(model)
        # the recorded model has fewer blocks and layers
        own = re.compile(r"(vision_encoder\.encoder\.blocks\.1|text_encoder.*layer\.3|text_decoder.*layer\.1)\.")
        recorded = {key for key in maps["maps"]["vqa"] if not key.endswith("position_ids")} & official.keys()
        assert recorded == {key for key in official if not own.match(key)}
        for key in recorded:
            assert torch.equal(official[key], source[maps["maps"]["vqa"][key]]), key
        layers = model.text_decoder.encoder.layer, model.text_model.encoder.layer[2:]
        for decoder_layer, fusion_layer in zip(*layers, strict=True):
            weights = dict(fusion_layer.named_parameters())
            assert all(torch.equal(weights[name], weight) for name, weight in decoder_layer.named_parameters())
    assert stage2.config.vision_config.num_frames == 2 and not stage2.config.is_encoder_decoder


def test_a_vocabulary_that_grew_in_stage_2_is_the_decoders_too():
    stage2 = randomised(UMTForVideoTextPreTraining(config()))
    stage2.resize_token_embeddings(33, mean_resizing=False)
    model = UMTForVideoQuestionAnswering.from_video_text(stage2).eval()
    assert model.config.text_config.vocab_size == 33
    asked = questions()
    asked["input_ids"][:, 1] = 32
    assert model(**asked, labels=ANSWERS[:3]).logits.shape == (3, 5, 33)


def test_the_vocabulary_grows_for_questions_and_answers(tmp_path):
    model = randomised(UMTForVideoQuestionAnswering(config()))
    assert model.resize_token_embeddings(33, mean_resizing=False) is model.text_decoder.get_input_embeddings()
    asked, answers = questions(), ANSWERS[:3].clone()
    asked["input_ids"][:, 1], answers[:, 1] = 32, 31
    with torch.no_grad():
        logits = model(**asked, labels=answers).logits
    assert logits.shape == (3, 5, 33)

    model.save_pretrained(tmp_path)
    loaded, info = UMTForVideoQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.config.text_config.vocab_size == model.text_decoder.config.vocab_size == 33
    with torch.no_grad():
        assert torch.equal(loaded(**asked, labels=answers).logits, logits)


def test_a_stage_2_model_that_lacks_a_part_is_refused():
    with pytest.raises(ValueError, match="mlm_weight"):
        UMTForVideoQuestionAnswering.from_video_text(UMTForVideoTextPreTraining(config(mlm_weight=0)))
    wider = UMTVideoTextConfig(vision_config=VISION | {"hidden_size": 24}, text_config=TEXT, projection_dim=8)
    with pytest.raises(ValueError, match=r"`hidden_size` 24 .* 16"):
        UMTForVideoQuestionAnswering.from_video_text(UMTForVideoTextPreTraining(wider))


def test_retrieval_is_not_fine_tuned_from_it(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a UMTForVideoQuestionAnswering, which lacks the projections"):
        load_retrieval_model(RetrievalRun(init_from=str(tmp_path)))


# --- losses ---------------------------------------------------------------------------------------------------------


def test_the_head_shares_the_decoders_word_embeddings(model, tmp_path):
    assert model.lm_head.decoder.weight is model.text_decoder.embeddings.word_embeddings.weight
    model.save_pretrained(tmp_path)
    loaded = UMTForVideoQuestionAnswering.from_pretrained(tmp_path)
    assert loaded.lm_head.decoder.weight is loaded.text_decoder.embeddings.word_embeddings.weight
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()


def test_answers_are_shared_out_as_told(model):
    asked = questions()
    counts, weights = torch.tensor([2, 1, 2]), torch.tensor([0.25, 0.75, 1.0, 0.5, 0.5])
    outputs = model(**asked, labels=ANSWERS, answers_per_question=counts, answer_weights=weights)
    repeated = {name: tensor.repeat_interleave(counts, dim=0) for name, tensor in asked.items()}
    alone = model(**repeated, labels=ANSWERS)
    torch.testing.assert_close(outputs.answer_losses, alone.answer_losses, **TOLERANCE)
    torch.testing.assert_close(outputs.loss, (alone.answer_losses * weights).sum() / 3, **TOLERANCE)
    padded = model(**asked, labels=ANSWERS.masked_fill(ANSWERS == 0, -100), answers_per_question=counts)
    torch.testing.assert_close(padded.answer_losses, outputs.answer_losses, **TOLERANCE)
    with pytest.raises(ValueError, match=r"5 answers .* 3 questions"):
        model(**asked, labels=ANSWERS)


def test_questions_of_a_clip_share_it(model):
    asked = questions(4)
    clips = asked.pop("pixel_values_videos")[:2]
    shared = model(**asked, pixel_values_videos=clips, labels=ANSWERS[:4])
    alone = model(**asked, pixel_values_videos=clips.repeat_interleave(2, dim=0), labels=ANSWERS[:4])
    torch.testing.assert_close(shared.logits, alone.logits, **TOLERANCE)
    with pytest.raises(ValueError, match=r"4 questions .* 3 clips"):
        model(**asked, pixel_values_videos=questions()["pixel_values_videos"], labels=ANSWERS[:4])
    with pytest.raises(ValueError, match="pixel_values_videos"):
        model(**asked, labels=ANSWERS[:4])


# --- ranking --------------------------------------------------------------------------------------------------------


def test_the_first_word_piece_counts_twice(model):
    asked = questions(1)
    indices, scores = model.rank_answers(**asked, candidate_ids=ANSWERS, k=3)
    repeated = {name: tensor.repeat_interleave(5, dim=0) for name, tensor in asked.items()}
    with torch.no_grad():
        outputs = model(**repeated, labels=ANSWERS)
    first = outputs.logits[:, 0].log_softmax(-1).gather(1, ANSWERS[:, 1:2])[:, 0]
    best = first.sort(descending=True, stable=True).indices[:3]
    expected, order = (first - outputs.answer_losses)[best].softmax(0).sort(descending=True)
    torch.testing.assert_close(scores[0], expected, **TOLERANCE)
    assert torch.equal(indices[0], best[order])


def test_candidates_with_the_same_first_piece_are_kept_in_the_lists_order(model):
    candidates = torch.tensor([[2, 9, 4, 0], [2, 9, 5, 4], [2, 9, 6, 4], [2, 9, 7, 4]])
    indices, _ = model.rank_answers(**questions(), candidate_ids=candidates, k=2)
    assert torch.equal(indices.sort(dim=1).values, torch.tensor([[0, 1]] * 3))
    for wrong in ({"candidate_ids": candidates[:0]}, {"candidate_ids": candidates, "k": 0}):
        with pytest.raises(ValueError, match="can't be ranked"):
            model.rank_answers(**questions(), **wrong)


# --- writing --------------------------------------------------------------------------------------------------------


def likeliest(model, asked: dict, length: int) -> torch.Tensor:
    """Greedy answers, written one word piece at a time by `forward` alone."""
    answers = torch.full((len(asked["input_ids"]), 1), 2)
    for _ in range(length):
        with torch.no_grad():
            logits = model(**asked, decoder_input_ids=answers).logits[:, -1]
        done = (answers == 4).any(dim=1)
        answers = torch.cat([answers, logits.argmax(-1).masked_fill(done, 0)[:, None]], dim=1)
    return answers


def log_probability(model, asked: dict, answers: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return -model(**asked, labels=answers).answer_losses


def test_greedy_and_beam_search(model):
    asked = questions()
    # a likely end, so that answers have several lengths
    with torch.no_grad():
        bias = model.lm_head.decoder.bias
        before = bias[4].item()
        bias[4] += 1.5
        greedy = model.generate(**asked, max_new_tokens=8)
        expected = likeliest(model, asked, greedy.shape[1] - 1)
        beams = model.generate(**asked, num_beams=5, max_new_tokens=3, min_new_tokens=3, length_penalty=0.0)
        fixed = model.generate(**asked, max_new_tokens=3, min_new_tokens=3)
        better = log_probability(model, asked, beams) - log_probability(model, asked, fixed)
        short = model.generate(**asked)
        bias[4] = before
    assert torch.equal(greedy, expected) and (greedy == 4).any()
    assert (better >= -1e-5).all() and not torch.equal(beams, fixed)
    assert short.shape[1] <= 5


# --- without the package --------------------------------------------------------------------------------------------


def test_a_saved_repository_answers_without_the_package(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"]
    assert saved["AutoModelForVisualQuestionAnswering"] == (
        "modeling_umt_question_answering.UMTForVideoQuestionAnswering"
    )
    assert "AutoModel" not in saved  # a UMTVideoTextModel would have parts without weights
    code = """
        import json, torch
        from transformers import AutoModelForVisualQuestionAnswering
        asked, answers = torch.load("asked.pt")
        model, report = AutoModelForVisualQuestionAnswering.from_pretrained(
            "model", trust_remote_code=True, output_loading_info=True
        )
        indices, scores = model.eval().rank_answers(**asked, candidate_ids=answers)
        written = model.generate(**asked, num_beams=2)
        print(json.dumps([indices.tolist(), scores.tolist(), written.tolist(), sum(map(len, report.values()))]))
    """
    torch.save((questions(), ANSWERS), tmp_path / "asked.pt")
    result = run_clean(textwrap.dedent(code), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not complaints(result.stderr)
    indices, scores, written, problems = json.loads(result.stdout.splitlines()[-1])
    expected = model.rank_answers(**questions(), candidate_ids=ANSWERS)
    assert indices == expected[0].tolist() and problems == 0
    assert torch.allclose(torch.tensor(scores), expected[1])
    assert written == model.generate(**questions(), num_beams=2).tolist()
