"""The vocabulary of a video-text model: whether a tokenizer is the one whose token ids the model was trained with.

A token id selects a row of the embedding table. With a larger vocabulary some ids have no row, and with a smaller one
or one in another order the rows of other tokens are used, without an error. The vocabulary's hash is therefore saved
in the model's configuration, `UMTVideoTextConfig.vocabulary_hash`.
"""

import hashlib

from transformers import PreTrainedTokenizerBase

from .configuration_umt import UMTVideoTextConfig


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the tokens in the order of their ids, one per line: for a BERT that of its `vocab.txt`.

    Added tokens are included. An id without a token is an empty line.
    """
    return hashlib.sha256("".join(f"{token}\n" for token in tokens_by_id(tokenizer)).encode()).hexdigest()


def tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens of a vocabulary, added ones included; empty for ids that it leaves out."""
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    return [tokens.get(index, "") for index in range(1 + max(tokens))]


def require_vocabulary(
    config: UMTVideoTextConfig,
    tokenizer: PreTrainedTokenizerBase,
    model: str = "the model",
    source: str = "the tokenizer",
) -> None:
    """Raises a ValueError unless a tokenizer has the vocabulary of a model.

    The hash of the vocabulary is compared; in a configuration without one, the number of tokens with the rows of the
    embedding table. A table that was padded to more rows than tokens needs the hash.

    Args:
        config: The configuration of the model.
        tokenizer: The tokenizer.
        model, source: What the model and the tokenizer are called in the message, such as their folders.
    """
    num_tokens, num_rows = len(tokens_by_id(tokenizer)), config.text_config.vocab_size
    if config.vocabulary_hash is None and num_tokens != num_rows:
        raise ValueError(
            f"The vocabulary of {source} has {num_tokens} tokens, but the embedding table of {model} has {num_rows}: "
            "token ids would select wrong embeddings or none. Use the tokenizer that the model was trained with."
        )
    if config.vocabulary_hash is not None and (found := vocabulary_hash(tokenizer)) != config.vocabulary_hash:
        raise ValueError(
            f"The vocabulary of {source} ({num_tokens} tokens, SHA-256 {found[:12]}…) is not that of {model} "
            f"({num_rows} tokens, SHA-256 {config.vocabulary_hash[:12]}…): token ids would select embeddings of other "
            "tokens. Use the tokenizer that the model was trained with."
        )


def record_vocabulary(
    config: UMTVideoTextConfig,
    tokenizer: PreTrainedTokenizerBase,
    model: str = "the model",
    source: str = "the tokenizer",
) -> None:
    """Writes the hash of the vocabulary into the configuration of the model that is used with it.

    Arguments and errors are those of `require_vocabulary`.
    """
    require_vocabulary(config, tokenizer, model, source)
    config.vocabulary_hash = vocabulary_hash(tokenizer)
