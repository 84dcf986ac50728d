"""Progress bars of libraries."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def hidden_loading_bars() -> Iterator[None]:
    """Hides transformers' bars ("Loading weights") within a `with` block that reads weights from the disk."""
    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
