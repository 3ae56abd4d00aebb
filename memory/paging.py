"""A prompt as main memory: what of a queue of messages leaves it when it overflows, and search results by the page.

After MemGPT (arXiv 2310.08560, section 2). Sizes are tokens, as the caller counts them; nothing here asks a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def page(items: Sequence[T], number: int, size: int = 5) -> list[T]:
    """The items on a page, from page 1 on; empty beyond the last.

    Raises:
        ValueError: a page or a size below 1.
    """
    if number < 1 or size < 1:
        raise ValueError(f"page {number} of {size} items each: both are counted from 1.")
    return list(items[(number - 1) * size : number * size])


def evicted(sizes: Sequence[int], *, share: float, keep: int, user: Sequence[bool] = ()) -> int:
    """How many of the oldest messages leave a queue: until they hold `share` of its tokens, but for the last `keep`.

    Args:
        sizes: tokens of each message, oldest first.
        share: of the queue's tokens, in (0, 1].
        user: which messages are a user's; a queue that would begin with one begins one later where it can.

    Returns:
        A number in [0, max(0, len(sizes) − keep)]; at least 1 where that allows it.

    Raises:
        ValueError: `share` is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected a share of the queue's tokens, above 0 and up to 1.")
    most, wanted = max(0, len(sizes) - keep), share * sum(sizes)
    count = gone = 0
    while count < most and gone < wanted:
        gone += sizes[count]
        count += 1
    if 0 < count < most and count < len(user) and user[count]:
        count += 1
    return count


def chunks(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Ranges [start, end) of neighbours that hold at most `most` tokens each; what is larger stands alone."""
    found: list[tuple[int, int]] = []
    start = held = 0
    for at, size in enumerate(sizes):
        if at > start and held + size > most:
            found.append((start, at))
            start, held = at, 0
        held += size
    return [*found, (start, len(sizes))] if sizes else []
