"""Question answering: recorded values, initialisation from stage 2, generation and ranking of answers, remote code.

Tests of all model classes are in the battery.
"""

import inspect
import json
import re
import textwrap

import pytest
import torch
from recorded import load_recorded
from recorded_models import encoder_sizes, sub_state
from subprocess_tools import complaints, run_clean

from modeling_umt import (
    UMTConfig,
    UMTForVideoQuestionAnswering,
    UMTForVideoTextPreTraining,
    UMTTextConfig,
    UMTVideoTextConfig,
    UMTVideoTextModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
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


def recorded_config(description: dict) -> UMTVideoTextConfig:
    recorded, ids = description["config"]["vision_encoder"], description["special_token_ids"]
    bert = description["config"]["text_encoder"]["bert_config"]
    vision = UMTConfig(**encoder_sizes(recorded), num_frames=recorded["num_frames"], num_aligned_layers=1)
    known = UMTTextConfig().to_dict().keys() - {"architectures", "model_type"}
    text = UMTTextConfig(
        **{key: value for key, value in bert.items() if key in known},
        **{f"{name}_token_id": ids[name] for name in ("cls", "mask", "sep")},
    )
    return UMTVideoTextConfig(vision_config=vision, text_config=text, projection_dim=16)


# --- recorded values ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded_case():
    description, tensors = load_recorded("vqa")
    model = convert_umt_checkpoint(sub_state(tensors), recorded_config(description))
    assert type(model) is UMTForVideoQuestionAnswering
    given = {key.removeprefix("input/"): tensor for key, tensor in tensors.items() if key.startswith("input/")}
    expected = {
        key.removeprefix("expected/"): tensor for key, tensor in tensors.items() if key.startswith("expected/")
    }
    inputs = {
        "input_ids": given["question_ids"],
        "attention_mask": given["question_mask"],
        "pixel_values_videos": given["video"],
    }
    return description, model, given, inputs, expected


@pytest.mark.parametrize("implementation", ("eager", "sdpa"))
def test_training_has_the_recorded_values(recorded_case, implementation):
    description, model, given, inputs, expected = recorded_case
    model.set_attn_implementation(implementation)
    outputs = model(
        **inputs,
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
def test_ranking_has_the_recorded_values(recorded_case, implementation, name):
    description, model, given, inputs, expected = recorded_case
    model.set_attn_implementation(implementation)
    candidates = given["candidate_ids"]
    indices, scores = model.rank_answers(
        **inputs,
        candidate_ids=candidates,
        candidate_attention_mask=given["candidate_mask"],
        k={"topk": description["k_test"], "ranked_all": len(candidates), "longer_than_the_list": 128}[name],
    )
    name = "topk" if name == "topk" else "ranked_all"
    assert torch.equal(indices, expected[f"{name}_ids"])
    close(scores, expected[f"{name}_probs"])


def test_the_conversion_is_reversible_bit_for_bit(recorded_case):
    _, model, *_ = recorded_case
    _, tensors = load_recorded("vqa")
    learned = {key: tensor for key, tensor in sub_state(tensors).items() if not key.endswith("position_ids")}
    official = official_state_dict(model)
    assert official.keys() == learned.keys()
    assert all(torch.equal(official[key], tensor) for key, tensor in learned.items())


# --- initialisation from stage 2 ------------------------------------------------------------------------------------


def test_every_weight_has_the_source_of_the_official_loader(tmp_path):
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


def test_a_vocabulary_extended_in_stage_2_is_the_decoders_too():
    stage2 = randomised(UMTForVideoTextPreTraining(config()))
    stage2.resize_token_embeddings(33, mean_resizing=False)
    model = UMTForVideoQuestionAnswering.from_video_text(stage2).eval()
    assert model.config.text_config.vocab_size == 33
    inputs = questions()
    inputs["input_ids"][:, 1] = 32
    assert model(**inputs, labels=ANSWERS[:3]).logits.shape == (3, 5, 33)


def test_the_vocabulary_is_resized_for_questions_and_answers(tmp_path):
    model = randomised(UMTForVideoQuestionAnswering(config()))
    assert model.resize_token_embeddings(33, mean_resizing=False) is model.text_decoder.get_input_embeddings()
    inputs, answers = questions(), ANSWERS[:3].clone()
    inputs["input_ids"][:, 1], answers[:, 1] = 32, 31
    with torch.no_grad():
        logits = model(**inputs, labels=answers).logits
    assert logits.shape == (3, 5, 33)

    model.save_pretrained(tmp_path)
    loaded, info = UMTForVideoQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.config.text_config.vocab_size == model.text_decoder.config.vocab_size == 33
    with torch.no_grad():
        assert torch.equal(loaded(**inputs, labels=answers).logits, logits)


def test_a_stage_2_model_without_a_required_part_is_refused():
    with pytest.raises(ValueError, match="mlm_weight"):
        UMTForVideoQuestionAnswering.from_video_text(UMTForVideoTextPreTraining(config(mlm_weight=0)))
    wider = UMTVideoTextConfig(vision_config=VISION | {"hidden_size": 24}, text_config=TEXT, projection_dim=8)
    with pytest.raises(ValueError, match=r"`hidden_size` 24 .* 16"):
        UMTForVideoQuestionAnswering.from_video_text(UMTForVideoTextPreTraining(wider))


def test_a_folder_without_a_required_part_is_refused(model, tmp_path):
    UMTVideoTextModel(config()).save_pretrained(tmp_path / "retrieval")
    for kind, saved in (("retrieval", None), ("answering", model)):
        if saved is not None:
            saved.save_pretrained(tmp_path / kind)
        with pytest.raises(ValueError, match=rf"{kind} lacks mlm_head\.decoder\.bias, mlm_head"):
            UMTForVideoQuestionAnswering.from_video_text(str(tmp_path / kind))


def test_retrieval_is_not_fine_tuned_from_question_answering(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a UMTForVideoQuestionAnswering, which lacks the projections"):
        load_retrieval_model(RetrievalRun(init_from=str(tmp_path)))


# --- losses ---------------------------------------------------------------------------------------------------------


def test_the_head_shares_the_decoders_token_embeddings(model, tmp_path):
    assert model.lm_head.decoder.weight is model.text_decoder.embeddings.word_embeddings.weight
    model.save_pretrained(tmp_path)
    loaded = UMTForVideoQuestionAnswering.from_pretrained(tmp_path)
    assert loaded.lm_head.decoder.weight is loaded.text_decoder.embeddings.word_embeddings.weight
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()


def test_answers_belong_to_questions_by_their_counts(model):
    inputs = questions()
    counts, weights = torch.tensor([2, 1, 2]), torch.tensor([0.25, 0.75, 1.0, 0.5, 0.5])
    outputs = model(**inputs, labels=ANSWERS, answers_per_question=counts, answer_weights=weights)
    repeated = {name: tensor.repeat_interleave(counts, dim=0) for name, tensor in inputs.items()}
    alone = model(**repeated, labels=ANSWERS)
    torch.testing.assert_close(outputs.answer_losses, alone.answer_losses, **TOLERANCE)
    torch.testing.assert_close(outputs.loss, (alone.answer_losses * weights).sum() / 3, **TOLERANCE)
    padded = model(**inputs, labels=ANSWERS.masked_fill(ANSWERS == 0, -100), answers_per_question=counts)
    torch.testing.assert_close(padded.answer_losses, outputs.answer_losses, **TOLERANCE)
    with pytest.raises(ValueError, match=r"5 answers .* 3 questions"):
        model(**inputs, labels=ANSWERS)


def test_several_questions_may_share_a_clip(model):
    inputs = questions(4)
    clips = inputs.pop("pixel_values_videos")[:2]
    shared = model(**inputs, pixel_values_videos=clips, labels=ANSWERS[:4])
    alone = model(**inputs, pixel_values_videos=clips.repeat_interleave(2, dim=0), labels=ANSWERS[:4])
    torch.testing.assert_close(shared.logits, alone.logits, **TOLERANCE)
    with pytest.raises(ValueError, match=r"4 questions .* 3 clips"):
        model(**inputs, pixel_values_videos=questions()["pixel_values_videos"], labels=ANSWERS[:4])
    with pytest.raises(ValueError, match="pixel_values_videos"):
        model(**inputs, labels=ANSWERS[:4])


# --- ranking --------------------------------------------------------------------------------------------------------


def test_the_first_token_counts_twice(model):
    inputs = questions(1)
    indices, scores = model.rank_answers(**inputs, candidate_ids=ANSWERS, k=3)
    repeated = {name: tensor.repeat_interleave(5, dim=0) for name, tensor in inputs.items()}
    with torch.no_grad():
        outputs = model(**repeated, labels=ANSWERS)
    first = outputs.logits[:, 0].log_softmax(-1).gather(1, ANSWERS[:, 1:2])[:, 0]
    best = first.sort(descending=True, stable=True).indices[:3]
    expected, order = (first - outputs.answer_losses)[best].softmax(0).sort(descending=True)
    torch.testing.assert_close(scores[0], expected, **TOLERANCE)
    assert torch.equal(indices[0], best[order])


def test_candidates_with_the_same_first_token_are_kept_in_the_lists_order(model):
    candidates = torch.tensor([[2, 9, 4, 0], [2, 9, 5, 4], [2, 9, 6, 4], [2, 9, 7, 4]])
    indices, _ = model.rank_answers(**questions(), candidate_ids=candidates, k=2)
    assert torch.equal(indices.sort(dim=1).values, torch.tensor([[0, 1]] * 3))
    for wrong in ({"candidate_ids": candidates[:0]}, {"candidate_ids": candidates, "k": 0}):
        with pytest.raises(ValueError, match="can't be ranked"):
            model.rank_answers(**questions(), **wrong)


# --- generation -----------------------------------------------------------------------------------------------------


def greedy_answers(model, inputs: dict, length: int) -> torch.Tensor:
    """Greedy decoding, one token at a time by `forward` alone."""
    answers = torch.full((len(inputs["input_ids"]), 1), 2)
    for _ in range(length):
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=answers).logits[:, -1]
        done = (answers == 4).any(dim=1)
        answers = torch.cat([answers, logits.argmax(-1).masked_fill(done, 0)[:, None]], dim=1)
    return answers


def log_probability(model, inputs: dict, answers: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return -model(**inputs, labels=answers).answer_losses


def test_greedy_and_beam_search(model):
    inputs = questions()
    # a more probable end, so that answers differ in length
    with torch.no_grad():
        bias = model.lm_head.decoder.bias
        before = bias[4].item()
        bias[4] += 1.5
        greedy = model.generate(**inputs, max_new_tokens=8)
        expected = greedy_answers(model, inputs, greedy.shape[1] - 1)
        beams = model.generate(**inputs, num_beams=5, max_new_tokens=3, min_new_tokens=3, length_penalty=0.0)
        fixed = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
        better = log_probability(model, inputs, beams) - log_probability(model, inputs, fixed)
        short = model.generate(**inputs)
        bias[4] = before
    assert torch.equal(greedy, expected) and (greedy == 4).any()
    assert (better >= -1e-5).all() and not torch.equal(beams, fixed)
    assert short.shape[1] <= 5


GENERATION = [{}, {"num_beams": 3}, {"do_sample": True}, {"use_cache": True}, {"num_beams": 2, "use_cache": True}]


@pytest.mark.parametrize("options", GENERATION, ids=str)
def test_generation_returns_hidden_states_and_attentions(options):
    torch.manual_seed(0)
    model = UMTForVideoQuestionAnswering._from_config(config(), attn_implementation="eager").eval()
    beams = options.get("num_beams", 1)
    flags = {"output_hidden_states": True, "output_attentions": True, "return_dict_in_generate": True}
    settings = options | {"min_new_tokens": 3, "max_new_tokens": 3}
    torch.manual_seed(1)
    outputs = model.generate(**questions(), **settings, **flags)
    torch.manual_seed(1)
    assert torch.equal(outputs.sequences, model.generate(**questions(), **settings))
    assert [tuple(state.shape) for state in outputs.encoder_hidden_states] == [(3, 6, 16)] * 5
    assert [tuple(weights.shape) for weights in outputs.encoder_attentions] == [(3, 2, 6, 6)] * 4
    for step in range(3):
        length = step + 1
        assert [tuple(t.shape) for t in outputs.decoder_hidden_states[step]] == [(3 * beams, length, 16)] * 3
        assert [tuple(t.shape) for t in outputs.decoder_attentions[step]] == [(3 * beams, 2, length, length)] * 2
        assert [tuple(t.shape) for t in outputs.cross_attentions[step]] == [(3 * beams, 2, length, 6)] * 2


def test_a_forward_pass_returns_the_states_of_every_part():
    model = UMTForVideoQuestionAnswering._from_config(config(), attn_implementation="eager").eval()
    with torch.no_grad():
        outputs = model(**questions(2), labels=ANSWERS[:4], output_hidden_states=True, output_attentions=True)
    shapes = {
        name: {tuple(tensor.shape) for tensor in value} for name, value in outputs.items() if isinstance(value, tuple)
    }
    assert shapes == {
        "hidden_states": {(2, 8, 16)},
        "attentions": {(2, 2, 8, 8)},
        "encoder_hidden_states": {(2, 6, 16)},
        "encoder_attentions": {(2, 2, 6, 6)},
        "decoder_hidden_states": {(4, 5, 16)},
        "decoder_attentions": {(4, 2, 5, 5)},
        "cross_attentions": {(4, 2, 5, 6)},
    }
    assert torch.equal(outputs.encoder_hidden_states[-1], outputs.encoder_last_hidden_state)


def test_generation_continues_answers_and_passes_keywords_on(model):
    inputs, started = questions(), torch.tensor([[0, 2, 7], [2, 8, 9], [2, 9, 7]])
    mask = (started != 0).long()
    longer = model.generate(
        **inputs, decoder_input_ids=started, decoder_attention_mask=mask, max_new_tokens=1, min_new_tokens=1
    )
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=started, decoder_attention_mask=mask).logits[:, -1]
    logits[:, 4] = -torch.inf  # `min_new_tokens`
    assert torch.equal(longer, torch.cat([started, logits.argmax(-1)[:, None]], dim=1))
    names = list(inspect.signature(model.prepare_inputs_for_generation).parameters)
    assert names[0] == "input_ids" and not model._can_compile_fullgraph
    passed = model.prepare_inputs_for_generation(started, decoder_attention_mask=mask, output_attentions=True)
    assert passed.keys() == {"decoder_input_ids", "decoder_attention_mask", "output_attentions"}


# --- without the package --------------------------------------------------------------------------------------------


def test_a_saved_repository_works_without_the_package(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"]
    assert saved["AutoModelForVisualQuestionAnswering"] == (
        "modeling_umt_question_answering.UMTForVideoQuestionAnswering"
    )
    assert "AutoModel" not in saved  # parts of a UMTVideoTextModel would have no weights
    code = """
        import json, torch
        from transformers import AutoModelForVisualQuestionAnswering
        inputs, answers = torch.load("inputs.pt")
        model, report = AutoModelForVisualQuestionAnswering.from_pretrained(
            "model", trust_remote_code=True, output_loading_info=True
        )
        indices, scores = model.eval().rank_answers(**inputs, candidate_ids=answers)
        written = model.generate(**inputs, num_beams=2)
        print(json.dumps([indices.tolist(), scores.tolist(), written.tolist(), sum(map(len, report.values()))]))
    """
    torch.save((questions(), ANSWERS), tmp_path / "inputs.pt")
    result = run_clean(textwrap.dedent(code), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not complaints(result.stderr)
    indices, scores, written, problems = json.loads(result.stdout.splitlines()[-1])
    expected = model.rank_answers(**questions(), candidate_ids=ANSWERS)
    assert indices == expected[0].tolist() and problems == 0
    assert torch.allclose(torch.tensor(scores), expected[1])
    assert written == model.generate(**questions(), num_beams=2).tolist()
