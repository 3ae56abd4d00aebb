"""What working on answers did to them: how many became right, and how many were right before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

_WORDS = ("right", "wrong")


def transitions(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Tasks that were scored both times, by what they were and became: `wrong_to_right` and so on.

    Right is a full score, in each episode where there are several.
    """
    counts = Counter((_word(scores), _word(after[task])) for task, scores in before.items() if task in after)
    return {f"{one}_to_{other}": counts[one, other] for one in _WORDS for other in _WORDS}


def _word(scores: Sequence[float]) -> str:
    return _WORDS[min(scores) < 1.0]
