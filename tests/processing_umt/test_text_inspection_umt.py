"""What the tokenizer leaves of texts is counted, and texts by which nothing can be meant are refused."""

import pytest
from bert_vocabulary import write_vocabulary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processing_umt import UMTProcessor
from processing_umt.text_inspection_umt import TextCounts


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> UMTProcessor:
    vocabulary = write_vocabulary(tmp_path_factory.mktemp("vocabulary"))
    return UMTProcessor.from_bert(vocabulary, image_size=32, num_frames=2, max_text_length=5)


def counts_of(counts: TextCounts) -> tuple[int, int, int, int]:
    return counts.cut, counts.unknown, counts.equal, counts.empty


@pytest.mark.parametrize(
    ("texts", "expected"),  # cut, unknown, equal, empty
    [
        (["a man", "a dog"], (0, 0, 0, 0)),
        (["a man runs a bike", "a man run"], (1, 0, 0, 0)),  # four tokens and [CLS] are read
        (["a man runs fast", "a man runs two", "a dog"], (2, 0, 2, 0)),
        (["xyzzy", "qwert uiop", "a xyzzy"], (0, 2, 0, 0)),
        (["xyzzy", "qwert"], (0, 2, 2, 0)),
        (["?!", "...", "a"], (0, 0, 2, 2)),
        (["A man.", "a  man", "a man", "a dog"], (0, 0, 3, 0)),
        (["a dog", "a dog"], (0, 0, 2, 0)),
        (["a\ndog", "a dog", "a\tdog"], (0, 0, 3, 0)),
        (["[SEP]", "[PAD]"], (0, 2, 2, 0)),  # in lower case
    ],
)
def test_counts(processor, texts, expected):
    counts = processor.inspect_texts(texts)
    assert counts_of(counts) == expected and counts.total == len(texts)
    line = counts.describe("captions")
    if not any(expected):
        assert line is None
    else:
        assert line == (
            f"captions: of {len(texts)}, {expected[0]} are cut to 5 tokens, {expected[1]} have no word of the "
            f"vocabulary, {expected[2]} are equal to another, {expected[3]} are empty without their punctuation"
        )


def test_answers_are_counted_as_they_are_encoded(processor):
    """Not cleaned; an answer of four words loses its [SEP] only, an answer of five its last word."""
    counts = processor.inspect_answers(["yes", "a man run fast", "a man run fast car", "yes.", "xyzzy"])
    assert (counts.cut, counts.unknown, counts.equal, counts.empty) == (1, 1, 2, 0)
    assert processor.inspect_answers(["Yes", "yes"]).equal == 2  # the vocabulary is in lower case


@given(st.lists(st.text(st.sampled_from("ad ogmn?xy"), max_size=12), min_size=1, max_size=8), st.integers(2, 8))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_equal_texts_are_those_that_are_encoded_equally(processor, texts, max_length):
    counts = processor.inspect_texts(texts, max_length)
    rows = [tuple(ids) for ids in processor(text=texts, max_length=max_length)["input_ids"]]
    assert counts.equal == sum(rows.count(row) > 1 for row in rows)
    assert counts.different_tokens == len(set(rows)) and counts.different == len(set(texts))
    assert counts.empty == sum(row == (101, *[0] * (max_length - 1)) for row in rows)
    assert counts.cut == sum(
        tuple(short)[:max_length] != tuple(long)[:max_length] or any(long[max_length:])
        for short, long in zip(rows, processor(text=texts, max_length=32)["input_ids"], strict=True)
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["?"], "query: nothing is left without punctuation"),
        (["xyzzy"], "query: no word is in the vocabulary"),
        (["?", "xyzzy"], "query: no word is in the vocabulary"),
        (["a man runs fast", "a man runs two"], "query: all 2 are equal to the model, 2 of them because they are cut"),
        (["A dog", "a dog!"], "query: all 2 are equal to the model, 0 of them"),
    ],
)
def test_texts_by_which_nothing_is_meant_are_refused(processor, texts, message):
    with pytest.raises(ValueError, match=message):
        processor.inspect_texts(texts).require_meaning("query")


@pytest.mark.parametrize("texts", [["a"], ["a dog", "a dog"], ["a", "?", "xyzzy"], ["A dog", "a dog", "a man"]])
def test_other_texts_are_accepted(processor, texts):
    processor.inspect_texts(texts).require_meaning("query")
