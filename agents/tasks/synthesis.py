"""New inputs of a task, made up by a model that is shown a few, and a selection that stands for all of them.

Self-synthesized rehearsal (arXiv 2403.01244): every ordered pair of demonstrations asks for more of the kind, the
replies are cut into inputs, and clusters of their embeddings say which to keep. What the model gives as an output is
thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.cluster.vq import kmeans2

from evolvent.agents.context import Context
from evolvent.agents.evolution import reply_once
from evolvent.agents.models.role import RoleModel
from evolvent.agents.types import CallTag, Reply, derive_seed
from evolvent.environments.types import Cost, Message
from evolvent.memory.embedding import Floats

PURPOSE = "synthesise"
_INPUT, _OUTPUT = "Input:", "Output:"
_TOLERATED = 2.0
"""A made-up input may be so many times as long as the longest that was shown, in characters."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A demonstration: a real task and its answer, for prompts only."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Synthesised:
    inputs: tuple[str, ...]
    """Different ones, in the order in which they were written."""
    dropped: int
    """Empty, too long, said before or copied from a real one."""
    cost: Cost


async def synthesise(
    context: Context,
    model: RoleModel,
    instructions: str,
    shown: Sequence[Shown],
    *,
    generation: int,
    samples: int,
    temperature: float,
    reply_tokens: int,
    real: Collection[str],
) -> Synthesised:
    """Inputs like those that are shown. Each call is made once in a run.

    Args:
        model: that was never trained on this stream.
        instructions: what the task is.
        samples: calls for each ordered pair of `shown`.
        real: inputs that may not come back, word for word.
    """

    async def ask(pair: tuple[Shown, Shown], number: int) -> Reply:
        key = f"{generation}/{PURPOSE}/{number}"
        tag = CallTag("actor", "train", generation, purpose=PURPOSE, episode=key)
        seed = derive_seed(context.seed, PURPOSE, generation, number)
        asked = request(instructions, pair)
        return await reply_once(
            context,
            key,
            lambda: model.generate(asked, tag, temperature=temperature, max_tokens=reply_tokens, seed=seed),
        )

    pairs = [pair for pair in permutations(shown, 2) for _ in range(samples)]
    replies = await context.rollouts.calls(ask(pair, number) for number, pair in enumerate(pairs))
    longest = _TOLERATED * max((len(each.input) for each in shown), default=0)
    found = [each for reply in replies for each in inputs_of(reply.text)]
    kept = dict.fromkeys(each for each in found if len(each) <= longest and each not in real)
    return Synthesised(tuple(kept), len(found) - len(kept), sum((reply.cost for reply in replies), Cost()))


def request(instructions: str, pair: Sequence[Shown]) -> list[Message]:
    """What asks for one more input, with these before it."""
    examples = "\n\n".join(f"{_INPUT} {each.input}\n{_OUTPUT} {each.output}" for each in pair)
    return [
        Message("system", "instructions", "You write new examples of a task, in the form of those that you are shown."),
        Message("user", "task", f"The task: {instructions}\n\n{examples}\n\n{_INPUT}"),
    ]


def inputs_of(text: str) -> list[str]:
    """The inputs in a reply that goes on after an open `Input:`; what stands under `Output:` is left out."""
    parts = re.split(rf"^\s*{_INPUT}", text.strip().removeprefix(_INPUT), flags=re.MULTILINE)
    cut = [re.split(rf"^\s*{_OUTPUT}|\n\s*\n", part.strip(), maxsplit=1, flags=re.MULTILINE)[0] for part in parts]
    return [each.strip() for each in cut if each.strip()]


def central(vectors_ND: Floats, *, clusters: int, wanted: int, seed: int) -> list[int]:
    """Places of about so many vectors: of each cluster a share like its size, those nearest to its centre.

    Every cluster has at least one, so there may be a few more, or, by rounding, fewer. Ascending.
    """
    count = len(vectors_ND)
    if count <= wanted:
        return list(range(count))
    centres_KD, cluster_N = kmeans2(
        vectors_ND.astype(np.float64), min(clusters, count), seed=seed, minit="++", missing="warn"
    )
    chosen: list[int] = []
    for cluster in sorted(set(cluster_N.tolist())):
        members = np.flatnonzero(cluster_N == cluster)
        far = np.linalg.norm(vectors_ND[members] - centres_KD[cluster], axis=1)
        share = max(1, round(wanted * len(members) / count))
        chosen += members[np.argsort(far, kind="stable")[:share]].tolist()
    return sorted(chosen)
