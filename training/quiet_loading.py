"""Loading and saving of models without what Transformers prints about it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_weight_bars() -> Iterator[None]:
    """Context manager in which Transformers shows no bar for reading and writing weights; downloads keep theirs."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    enable_progress_bars()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Context manager without these bars and without the report of weights, which the caller checks."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_weight_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)
