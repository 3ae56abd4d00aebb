"""Seeds for dealt games, such that no two splits can ever hold the same game."""

from __future__ import annotations

import hashlib
from typing import get_args

from evolvent.environments.types import Split

_SPLITS: tuple[Split, ...] = get_args(Split)


def game_seed(world: str, split: Split, seed: int, index: int) -> int:
    """Seed of the `index`-th game that `tasks(split, n, seed)` deals, in [0, 2³¹).

    The remainder modulo 3 is the split's own, so splits are disjoint by construction; `world` keeps environments apart.
    """
    digest = hashlib.sha256(f"{world}/{split}/{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:4]) % (2**31 // 3) * 3 + _SPLITS.index(split)
