"""What a system thinks about a task before it answers: calls and tool runs outside episodes, each made once.

Every call is kept in the ledger under generation, purpose, task and number, with what it cost; so a killed run asks
nothing again, a later phase reads what an earlier one wrote, and the graph's state holds names and numbers only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from evolvent.agents.context import Context
from evolvent.agents.errors import ModelCallError, ModelUnavailableError, SetupError
from evolvent.agents.evolution import State, once
from evolvent.agents.solutions.act import first_messages, new_messages
from evolvent.agents.types import CallTag, derive_seed
from evolvent.environments.sandbox import IsolatedEnvironment
from evolvent.environments.types import Cost, Message, Task
from evolvent.memory.ledger import Ledger


class Scratchpad:
    """The thinking of one generation.

    Args:
        state: with the generation, its `tasks`, and those of them that are still `open`.
    """

    def __init__(self, context: Context, state: State) -> None:
        self._context = context
        self._generation = state["generation"]
        self.tasks = tasks_of(context, self._generation)
        """Of this generation, in order."""
        self.open = [task for task in self.tasks if task.id in state.get("open", [])]
        """Those that are still worked on."""

    async def question(self, task: Task, shown: str = "") -> tuple[Message, ...]:
        """What an agent of the environment is asked: its instructions, the task, and what it sees first.

        Args:
            shown: what stands before the task, solved examples for one.

        Raises:
            SetupError: the environment takes more than one reply, or has several players.
        """
        return await self._opening(task, shown, one_move=True)

    async def opening(self, task: Task, shown: str = "") -> tuple[Message, ...]:
        """The same, also where this is only the first of several moves.

        Raises:
            SetupError: the environment has several players.
        """
        return await self._opening(task, shown, one_move=False)

    async def _opening(self, task: Task, shown: str, *, one_move: bool) -> tuple[Message, ...]:
        spec = self._context.objective.environment_at(self._generation)
        async with self._context.rollouts.pool.use(spec) as world:
            if (one_move and world.max_steps > 1) or len(world.players) > 1:
                raise SetupError(
                    f"{spec.name} takes {world.max_steps} moves and has {len(world.players)} players; this recipe "
                    f"is for one player{' and one move' if one_move else ''}. `evolvent envs` lists the environments."
                )
            # As the episode that will answer begins, see `episode.recall`.
            seed = derive_seed(self._context.seed, "episode", task.id, 0)
            if isinstance(world, IsolatedEnvironment):
                (seen,) = await asyncio.to_thread(world.reset, task, seed)
            else:
                (seen,) = world.reset(task, seed)
            return (*first_messages(world.instructions, task, shown), *new_messages(seen, scored=False))

    async def ask(
        self,
        task: Task,
        purpose: str,
        messages: Sequence[Message],
        number: int = 0,
        *,
        role: str = "actor",
        temperature: float = 0.0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
    ) -> str:
        """The model's reply, stripped; empty where the call failed for good.

        Args:
            number: tells calls of one purpose about one task apart, and draws their randomness.

        Raises:
            ModelUnavailableError: not one model call of this run has succeeded.
        """
        context, generation = self._context, self._generation
        tag = CallTag(role, "train", generation, task.id, number, purpose=purpose)

        async def call() -> str:
            try:
                reply = await context.model(role).generate(
                    messages,
                    tag,
                    temperature=temperature,
                    max_tokens=max_tokens,
                    stop=stop,
                    seed=derive_seed(context.seed, purpose, generation, task.id, number),
                )
            except ModelCallError as error:
                if not context.trace.answered:
                    raise ModelUnavailableError(f"No model call has succeeded yet. The last said: {error}") from error
                return json.dumps({"text": "", "cost": asdict(Cost()), "failed": True})
            return json.dumps({"text": reply.text.strip(), "cost": asdict(reply.cost)})

        return str(json.loads(await once(context, self._key(task, purpose, number), call))["text"])

    async def run(self, task: Task, purpose: str, tool: Callable[[], Awaitable[str]], number: int = 0) -> str:
        """What a tool said, as text (JSON where it has parts); a resumed run does not run it again."""
        known = self.said(task, purpose, number)
        return self.note(task, purpose, await tool(), number) if known is None else known

    def note(self, task: Task, purpose: str, text: str, number: int = 0) -> str:
        """Write down what was worked out of what was said; what is written stays."""
        known = self.said(task, purpose, number)
        if known is None:
            self._context.memory.ledger.add_memo(self._key(task, purpose, number), json.dumps({"text": text}))
        return text if known is None else known

    def said(self, task: Task, purpose: str, number: int = 0) -> str | None:
        """What a call or a tool gave; None where it was not asked."""
        known = self._context.memory.ledger.memo(self._key(task, purpose, number))
        return None if known is None else str(json.loads(known)["text"])

    def every(self, task: Task, purpose: str) -> list[str]:
        """All that was said for one purpose, by number from 0 on."""
        found: list[str] = []
        while (text := self.said(task, purpose, len(found))) is not None:
            found.append(text)
        return found

    async def each(self, works: Iterable[Awaitable[str]]) -> list[str]:
        """The results of calls, in order, as many at once as episodes would be."""
        return await self._context.rollouts.calls(works)

    def failed(self, task: Task) -> bool:
        """Whether a call about the task failed for want of a model, not of skill."""
        return any(row.get("failed") for row in self._rows(task.id))

    def cost(self) -> Cost:
        """Of all calls of the generation."""
        return thought(self._context.memory.ledger, self._generation)

    def _rows(self, task: str) -> list[dict[str, Any]]:
        texts = self._context.memory.ledger.memos(f"{self._generation}/think/{task}/").values()
        return [json.loads(text) for text in texts]

    def _key(self, task: Task, purpose: str, number: int) -> str:
        return f"{self._generation}/think/{task.id}/{purpose}/{number}"


def thought(ledger: Ledger, generation: int) -> Cost:
    """What the calls about a generation's tasks cost."""
    rows = (json.loads(text) for text in ledger.memos(f"{generation}/think/").values())
    return sum((Cost(**row["cost"]) for row in rows if "cost" in row), Cost())


def tasks_of(context: Context, generation: int) -> list[Task]:
    """The training tasks that a generation works on; each generation has others."""
    return context.tasks("train", context.objective.tasks, generation)


def user(text: str) -> Message:
    return Message("user", "task", text)


def agreed(reply: str) -> bool:
    """Whether a reply begins with yes."""
    return reply.lower().lstrip(" \"'*").startswith("yes")


def assistant(text: str) -> Message:
    """An earlier reply of the model's own."""
    return Message("assistant", "history", text)
