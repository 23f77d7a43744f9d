"""The vocabulary of a video-text model: its hash, where it is kept, and tokenizers that do not fit."""

import hashlib
import json
from pathlib import Path

import pytest
from bert_vocabulary import WORDS, bert_words, write_vocabulary
from hypothesis import given
from hypothesis import strategies as st
from tiny_question_answering import tiny_answerer, tiny_stage2
from tiny_video_text_retrieval import save_tiny_retrieval_model, tiny_retrieval_model
from transformers import BertTokenizer, pipeline

import modeling_umt
from modeling_umt import UMTVideoTextConfig, vocabulary_hash
from modeling_umt.vocabulary_umt import record_vocabulary, require_vocabulary
from processing_umt import UMTProcessor

OTHER = {
    "larger": [*WORDS, "zebra"],
    "smaller": WORDS[:-1],
    "permuted": [*WORDS[1:], WORDS[0]],
    "other words": [*WORDS[:-1], "zebra"],
}


def tokenizer_of(folder: Path, words=WORDS):
    folder.mkdir(exist_ok=True)
    return UMTProcessor.from_bert(write_vocabulary(folder, words)).tokenizer


def test_the_hash_is_that_of_the_vocabulary_file_and_survives_saving(tmp_path):
    tokenizer = tokenizer_of(tmp_path)
    expected = hashlib.sha256((tmp_path / "vocab.txt").read_bytes()).hexdigest()
    assert vocabulary_hash(tokenizer) == expected
    UMTProcessor.from_bert(tmp_path / "vocab.txt").save_pretrained(tmp_path / "saved")
    assert vocabulary_hash(UMTProcessor.from_pretrained(tmp_path / "saved").tokenizer) == expected
    assert vocabulary_hash(BertTokenizer.from_pretrained(tmp_path)) == expected


@given(st.permutations(range(5)), st.integers(0, 3))
def test_the_hash_depends_on_the_order_and_on_ids_without_a_token(order, gap):
    class Tokenizer:
        def get_vocab(self):
            return {token: index + gap * (index > 2) for token, index in zip("abcde", order, strict=True)}

    tokens = sorted("abcde", key=Tokenizer().get_vocab().get)
    lines = [*tokens[:3], *gap * [""], *tokens[3:]]
    assert vocabulary_hash(Tokenizer()) == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@pytest.mark.parametrize("kind", OTHER)
def test_another_vocabulary_is_refused(kind, tmp_path):
    tokenizer, other = tokenizer_of(tmp_path), tokenizer_of(tmp_path / "other", OTHER[kind])
    config = tiny_retrieval_model().config
    if kind in ("larger", "smaller"):  # seen without a hash too
        with pytest.raises(ValueError, match=r"of B has 12[24] tokens, but the embedding table of A has 123: [^\n]*$"):
            require_vocabulary(config, other, "A", "B")
    require_vocabulary(config, tokenizer)
    assert config.vocabulary_hash is None
    record_vocabulary(config, tokenizer)
    assert config.vocabulary_hash == vocabulary_hash(tokenizer)
    record_vocabulary(config, tokenizer)
    for function in (require_vocabulary, record_vocabulary):
        with pytest.raises(ValueError, match=r"of B \(12\d tokens, SHA-256 .* is not that of A \(123 tokens") as error:
            function(config, other, "A", "B")
        assert "\n" not in str(error.value) and config.vocabulary_hash == vocabulary_hash(tokenizer)


def test_a_configuration_without_the_field_loads_and_one_with_it_keeps_it(tmp_path):
    config = tiny_retrieval_model().config
    config.vocabulary_hash = "ab" * 32
    config.save_pretrained(tmp_path)
    assert UMTVideoTextConfig.from_pretrained(tmp_path).vocabulary_hash == "ab" * 32
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["vocabulary_hash"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert UMTVideoTextConfig.from_pretrained(tmp_path).vocabulary_hash is None


@pytest.mark.parametrize("make", [tiny_retrieval_model, tiny_stage2, tiny_answerer])
def test_another_number_of_embeddings_is_another_vocabulary(make, tmp_path):
    model, processor = make(), UMTProcessor.from_bert(write_vocabulary(tmp_path))
    record_vocabulary(model.config, processor.tokenizer)
    model.resize_token_embeddings(len(processor.tokenizer))
    assert model.config.vocabulary_hash is not None
    processor.tokenizer.add_tokens(["zebra"])
    with pytest.raises(ValueError, match="124 tokens"):
        require_vocabulary(model.config, processor.tokenizer)
    model.resize_token_embeddings(len(processor.tokenizer))
    assert model.config.vocabulary_hash is None
    record_vocabulary(model.config, processor.tokenizer)
    # rows that were added to fill the table up are known by the hash alone
    model.resize_token_embeddings(len(processor.tokenizer), pad_to_multiple_of=64)
    assert model.config.text_config.vocab_size == 128
    with pytest.raises(ValueError, match="124 tokens, but the embedding table of the model has 128"):
        require_vocabulary(model.config, processor.tokenizer)
    model.config.vocabulary_hash = vocabulary_hash(processor.tokenizer)
    require_vocabulary(model.config, processor.tokenizer)


def test_question_answering_inherits_the_vocabulary_of_stage_2(tmp_path):
    stage2 = tiny_stage2()
    record_vocabulary(stage2.config, tokenizer_of(tmp_path))
    model = modeling_umt.UMTForVideoQuestionAnswering.from_video_text(stage2)
    assert model.config.vocabulary_hash == stage2.config.vocabulary_hash


def test_the_pipeline_refuses_another_vocabulary(tmp_path):
    folder = save_tiny_retrieval_model(tmp_path / "model")
    assert pipeline("zero-shot-video-classification", model=str(folder)).model.config.vocabulary_hash is None
    UMTProcessor.from_bert(write_vocabulary(tmp_path, OTHER["larger"])).save_pretrained(folder)
    with pytest.raises(ValueError, match=f"124 tokens, but the embedding table of {folder} has 123"):
        pipeline("zero-shot-video-classification", model=str(folder))


def test_the_registry_states_the_vocabulary_of_the_published_models(tmp_path):
    """The tokens of the tests' vocabulary are not BERT's: the published hash is another one."""
    from umt_training.cards.checkpoint_registry import checkpoint_row, row_config

    published = {
        row_config(checkpoint_row(name)).vocabulary_hash for name in ("b16_25m", "l16_25m", "qa_msvd_b16_25m")
    }
    [known] = published
    assert len(known) == 64 and known != hashlib.sha256("\n".join(bert_words()).encode()).hexdigest()
