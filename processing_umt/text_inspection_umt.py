"""What a tokenizer leaves of texts: how many are cut, unknown, empty, or the same as another.

A model can't tell texts apart whose tokens are equal: retrieval by captions that are cut to the same beginning, or a
choice between unknown labels, measures nothing. A few such texts are common in real lists and are counted. Where all
texts of a list are such, nothing can be meant by them, and they are refused.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TextCounts:
    """Counts of the texts of a list, see `count_texts`.

    Args:
        total (`int`): Number of texts.
        different (`int`): Number of texts that differ as they are written.
        different_tokens (`int`): Number of texts that differ to the model.
        cut (`int`): Texts that lose tokens, because they have more than `max_length`.
        unknown (`int`): Texts all of whose tokens are unknown.
        equal (`int`): Texts with the same tokens as another one, after cutting.
        empty (`int`): Texts without tokens, such as punctuation only.
        max_length (`int`): Number of tokens of a text that are read, with the special tokens.
    """

    total: int
    different: int
    different_tokens: int
    cut: int
    unknown: int
    equal: int
    empty: int
    max_length: int

    def describe(self, name: str) -> str | None:
        """The counts in one line, or None if all texts are complete, known and different.

        Args:
            name: What the texts are, such as `"captions"`.
        """
        if not any((self.cut, self.unknown, self.equal, self.empty)):
            return None
        return (
            f"{name}: of {self.total}, {self.cut} are cut to {self.max_length} tokens, {self.unknown} have no word of "
            f"the vocabulary, {self.equal} are equal to another, {self.empty} are empty without their punctuation"
        )

    def require_meaning(self, name: str) -> None:
        """Checks that a text has a known word, and that a model can tell some of the texts apart.

        Args:
            name: What the texts are, such as `"captions"`.

        Raises:
            ValueError: no text has a known word, or all texts are equal although they are written differently.
        """
        if self.empty == self.total:
            raise ValueError(f"{name}: nothing is left without punctuation, which is not read. Write them in words.")
        if self.empty + self.unknown == self.total:
            raise ValueError(
                f"{name}: no word is in the vocabulary of the model. Write them in its language, or use a model with "
                "another vocabulary."
            )
        if self.different > 1 and self.different_tokens == 1:
            raise ValueError(
                f"{name}: all {self.total} are equal to the model, {self.cut} of them because they are cut to "
                f"{self.max_length} tokens. Write texts that differ, or read more tokens of them."
            )


def count_texts(
    texts: Sequence[str], token_ids: Iterable[list[int]], max_length: int, special: Collection[int], unknown: int
) -> TextCounts:
    """Counts the texts of which a model reads nothing, only a part, or the same as of another.

    Args:
        texts: The texts as they are written, at least one.
        token_ids: The complete tokens of each text, not padded.
        max_length: Number of tokens of a text that are read.
        special: Special tokens, such as those at the ends of a text.
        unknown: The token of unknown words.
    """
    cut = num_unknown = empty = 0
    read = Counter()
    for ids in token_ids:
        words = [token for token in ids[:max_length] if token not in special]
        cut += len(words) < sum(token not in special for token in ids)
        empty += not words
        num_unknown += bool(words) and all(token == unknown for token in words)
        read[tuple(words)] += 1
    return TextCounts(
        total=len(texts),
        different=len(set(texts)),
        different_tokens=len(read),
        cut=cut,
        unknown=num_unknown,
        equal=sum(count for count in read.values() if count > 1),
        empty=empty,
        max_length=max_length,
    )
