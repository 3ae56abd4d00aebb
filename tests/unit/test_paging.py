"""What leaves a queue that overflows, and pages of results."""

from __future__ import annotations

import pytest

from evolvent.memory.paging import chunks, evicted, page


def test_pages_hold_five_and_the_second_begins_with_the_sixth() -> None:
    items = list(range(1, 13))
    assert [page(items, number) for number in (1, 2, 3, 4)] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12], []]
    with pytest.raises(ValueError, match="counted from 1"):
        page(items, 0)


@pytest.mark.parametrize(
    ("sizes", "share", "keep", "count"),
    [
        ([10] * 8, 0.75, 3, 5),  # six would make the share, but three stay
        ([10] * 8, 0.5, 3, 4),
        ([100, 1, 1, 1, 1], 0.5, 1, 1),
        ([10, 10], 0.75, 3, 0),
        ([], 0.75, 0, 0),
        ([10], 0.75, 0, 1),
    ],
)
def test_the_oldest_leave_until_the_share_is_gone_and_the_last_stay(
    sizes: list[int], share: float, keep: int, count: int
) -> None:
    assert evicted(sizes, share=share, keep=keep) == count


def test_a_queue_does_not_begin_with_a_user_where_it_can_be_helped() -> None:
    assert evicted([10] * 8, share=0.5, keep=1, user=[True, False] * 4) == 5
    assert evicted([10] * 5, share=0.5, keep=2, user=[True] * 5) == 3, "the last ones stay all the same"
    with pytest.raises(ValueError, match="share is 0"):
        evicted([1], share=0, keep=0)


def test_chunks_hold_what_fits_and_a_giant_stands_alone() -> None:
    assert chunks([3, 3, 3, 9, 1], 6) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert chunks([], 6) == []
