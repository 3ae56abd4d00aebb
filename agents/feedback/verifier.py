"""The environment as a reward for replies: what it gives an agent whose whole episode is that one reply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from evolvent.agents.errors import SetupError
from evolvent.agents.solutions.act import read_action
from evolvent.agents.types import derive_seed
from evolvent.environments.errors import WorldError
from evolvent.environments.protocol import Environment
from evolvent.environments.types import Action, Task
from evolvent.memory.weights.prompts import Prompt


class Verifier:
    """Scores in [0, 1] of replies to tasks. A reply that the environment cannot judge, say in time, is worth 0.

    Args:
        asked: the task behind each prompt, by `key`.
        seed: of the run.

    Raises:
        SetupError: an episode of this environment takes more than one reply, or several players.
    """

    def __init__(self, environment: Environment, asked: Mapping[str, Task], seed: int) -> None:
        if environment.max_steps > 1 or len(environment.players) > 1:
            raise SetupError(
                f"Episodes of {type(environment).__name__} have {environment.max_steps} steps and "
                f"{len(environment.players)} players; a reply is judged where one player's one step is all."
            )
        self._environment = environment
        self._asked = dict(asked)
        self._seed = seed

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        return [self._score(self._asked[key(prompt)], reply) for prompt, reply in zip(prompts, replies, strict=True)]

    def _score(self, task: Task, reply: str) -> float:
        (player,) = self._environment.players
        try:
            (observation,) = self._environment.reset(task, derive_seed(self._seed, "episode", task.id, 0))
            action, _ = read_action(reply, observation)
            return self._environment.step({player: Action(action)}).rewards.get(player, 0.0)
        except WorldError:
            return 0.0


def key(prompt: Prompt) -> str:
    """Equal for equal messages."""
    return json.dumps([[message["role"], message["content"]] for message in prompt])
