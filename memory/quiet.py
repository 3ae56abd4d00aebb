"""Loading weights without the libraries' own progress bars and their warnings of each other."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    switch: Any = logging  # untyped
    shown = switch.is_progress_bar_enabled()
    switch.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT still reads what transformers has renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        if shown:
            switch.enable_progress_bar()
