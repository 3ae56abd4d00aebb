"""How a seat acts: what its prompt holds and how an action comes out of the model.

Options are chosen by log-probability where the model can score them; otherwise the reply is read leniently.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.recall import NO_RECALL, Recall
from evolvent.agents.types import CallTag, Reply
from evolvent.environments.types import Action, Cost, Message, Observation, Sampling, Step, Task, conversation

_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that makes one seat act as it does; a whole generation, as far as one episode is concerned."""

    model: RoleModel
    recall: Recall = NO_RECALL
    temperature: float = 0.0
    calibrate: bool = False
    """Subtract what the options score under a prompt that says nothing of the situation (PMI)."""
    max_reply_tokens: int = 48
    """Of a generated action."""
    stop: tuple[str, ...] = ()
    """A generated action ends where one of these begins."""
    window_tokens: int = 6000
    """Oldest turns leave the prompt beyond this, estimated at four characters a token."""
    keep_first: bool = False
    """The first observation stays in the prompt all the same, as a part of the task."""
    thought: str = ""
    """How a written reply begins that is a thought and no action, `think[` for one: it is handed on as it is, whatever
    actions it names. Empty where the environment takes none."""
    written: bool = False
    """Generate an action and read it also where the model could score the options, which are then told."""
    stop_on_repeat: bool = False
    """End the episode as failed when an action repeats the previous one word for word."""
    demonstrated: tuple[str, ...] = ()
    """What to do at each step, the last of it again when that is over: an expert's actions, in the prompts and the
    words in which the model would take them; `written`, they are read as its reply would be. Empty asks the model."""
    manner: Manner | None = None
    """How an action is come by; None asks the model once."""
    max_steps: int | None = None
    """Steps after which the episode ends with the score so far, where the environment's limit is not nearer."""

    async def write(
        self,
        prompt: Sequence[Message],
        tag: CallTag,
        rng: random.Random,
        *,
        max_tokens: int | None = None,
        stop: tuple[str, ...] | None = None,
    ) -> Reply:
        """One reply as this seat writes: at its temperature and within its limits, where no others are given.

        Raises:
            ModelCallError: the model could not be reached, or failed for good.
        """
        return await self.model.generate(
            prompt,
            tag,
            temperature=self.temperature,
            max_tokens=self.max_reply_tokens if max_tokens is None else max_tokens,
            stop=self.stop if stop is None else stop,
            seed=rng.getrandbits(31),
        )


@dataclass(frozen=True, slots=True)
class Acted:
    """A step before the environment has answered it."""

    step: Step
    cost: Cost
    malformed: bool = field(default=False)
    """The reply named no admissible action."""
    gave_up: str = ""
    """Why the seat ends the episode here, as failed and without the environment's answer; empty to go on."""


class Manner(Protocol):
    """How a seat comes by an action where one plain reply is not enough: by several calls, say, or none.

    - `new` is what a step adds to the conversation by itself, `earlier` are the steps before it.
    - The step's messages and its `history_from` give the prompt of the call whose reply is the step's.
    - Calls go to `policy.model` under tags that differ from `tag` in purpose alone; the cost is that of all of them.
    """

    async def __call__(
        self,
        policy: Policy,
        observation: Observation,
        new: tuple[Message, ...],
        earlier: Sequence[Step],
        tag: CallTag,
        rng: random.Random,
    ) -> Acted: ...


def first_messages(instructions: str, task: Task, head: str) -> tuple[Message, ...]:
    """The head of a seat's conversation: instructions alike for all episodes, then memory, then the task."""
    return (
        Message("system", "instructions", instructions),
        Message("user", "memory", head),
        Message("user", "task", task.prompt),
    )


async def act(
    policy: Policy,
    observation: Observation,
    head: tuple[Message, ...],
    hint: str,
    earlier: Sequence[Step],
    tag: CallTag,
    rng: random.Random,
) -> Acted:
    """One action of one seat. `head` is empty but for the first step; `hint` is what memory says of this observation.

    Raises:
        ModelCallError: the model could not be reached, or failed for good.
    """
    options = observation.actions or ()
    scored = policy.model.can_choose and not policy.written
    new = new_messages(observation, hint, scored=scored)
    if policy.keep_first and not earlier:
        new = tuple(replace(message, part="task") if message.part == "history" else message for message in new)
    new = (*head, *new)
    if policy.demonstrated:
        return _demonstrate(policy, observation, new, earlier)
    if policy.manner is not None:
        return await policy.manner(policy, observation, new, earlier, tag, rng)
    if not (options and scored):
        return await _generate(policy, observation, new, earlier, tag, rng)
    return await weigh(policy, observation, new, earlier, tag, rng)


async def weigh(
    policy: Policy,
    observation: Observation,
    new: tuple[Message, ...],
    earlier: Sequence[Step],
    tag: CallTag,
    rng: random.Random,
) -> Acted:
    """An action by the log-probabilities of the options, which a model that can choose gives.

    Raises:
        ModelCallError: see `act`.
    """
    options = observation.actions or ()
    start = history_from(policy, earlier, new)
    choice = await policy.model.choose(
        conversation(earlier, new, start),
        [framed(observation, option) for option in options],
        tag,
        rng=rng,
        temperature=policy.temperature,
        neutral=head_of(earlier, new) if policy.calibrate else None,
    )
    action = options[choice.index]
    sampling = Sampling(policy.temperature, "choose", options, choice.probabilities)
    step = Step(
        observation.player,
        observation,
        new,
        framed(observation, action),
        Action(action),
        logprob=_log(choice.probability),
        sampling=sampling,
        history_from=start,
    )
    return Acted(step, choice.cost)


def written_step(
    policy: Policy, observation: Observation, new: tuple[Message, ...], reply: str, action: str, start: int = 0
) -> Step:
    """A step whose action came out of a reply that the seat wrote.

    Args:
        start: its `history_from`.
    """
    sampling = Sampling(policy.temperature, "generate")
    return Step(observation.player, observation, new, reply, Action(action), sampling=sampling, history_from=start)


def new_messages(observation: Observation, hint: str = "", *, scored: bool) -> tuple[Message, ...]:
    """What a step adds to the conversation; a model that cannot have its options scored is told them."""
    new = (Message("user", "history", observation.text), Message("user", "memory", hint))
    if not observation.actions or scored:
        return new
    return (*new, Message("user", "history", f"Answer with one of: {' | '.join(observation.actions)}"))


def framed(observation: Observation, action: str) -> str:
    """The action as the sentence that the environment words it in."""
    return observation.frame.replace("{action}", action)


def head_of(earlier: Sequence[Step], new: tuple[Message, ...]) -> tuple[Message, ...]:
    """The instructions and nothing of the situation: the uninformative prompt of PMI calibration."""
    first = earlier[0].messages if earlier else new
    system = tuple(message for message in first if message.part == "instructions")
    return (*system, Message("user", "history", "What do you do?"))


def read_action(reply: str, observation: Observation) -> tuple[str, bool]:
    """(action text, whether it is admissible). A reply that names none is handed on as it is, its first line.

    Where any text may be tried it is handed on whole: a solution has several lines.
    """
    if observation.actions is None:
        return reply.strip(), bool(reply.strip())
    line = next((line.strip() for line in reply.splitlines() if line.strip()), "")[:200]
    by_name = {_plain(action): action for action in observation.actions}
    by_name |= {_plain(framed(observation, action)): action for action in observation.actions}
    said = _plain(reply)
    if said in by_name:
        return by_name[said], True
    if _plain(line) in by_name:
        return by_name[_plain(line)], True
    named = {action for name, action in by_name.items() if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)}
    longest = {a for a in named if not any(a != b and _plain(a) in _plain(b) for b in named)}
    if len(longest) == 1:
        return longest.pop(), True
    return line, False


def _read(policy: Policy, reply: str, observation: Observation) -> tuple[str, bool]:
    said = reply.strip()
    if policy.thought and said.lower().startswith(policy.thought.lower()):
        return said.splitlines()[0], True
    return read_action(reply, observation)


def _demonstrate(policy: Policy, observation: Observation, new: tuple[Message, ...], earlier: Sequence[Step]) -> Acted:
    action = policy.demonstrated[min(len(earlier), len(policy.demonstrated) - 1)]
    if policy.written:
        reply, action = action, read_action(action, observation)[0]
    else:
        reply = framed(observation, action) if observation.actions and policy.model.can_choose else action
    start = history_from(policy, earlier, new)
    return Acted(Step(observation.player, observation, new, reply, Action(action), history_from=start), Cost())


async def _generate(
    policy: Policy,
    observation: Observation,
    new: tuple[Message, ...],
    earlier: Sequence[Step],
    tag: CallTag,
    rng: random.Random,
) -> Acted:
    start = history_from(policy, earlier, new)
    reply = await policy.write(conversation(earlier, new, start), tag, rng)
    action, known = _read(policy, reply.text, observation)
    step = written_step(policy, observation, new, reply.text, action, start)
    return Acted(step, reply.cost, malformed=not known)


def history_from(policy: Policy, earlier: Sequence[Step], new: tuple[Message, ...]) -> int:
    """The first earlier step whose turn still fits the window."""
    room = policy.window_tokens * _CHARS_PER_TOKEN - sum(len(message.text) for message in new)
    start = len(earlier)
    for index in range(len(earlier) - 1, -1, -1):
        room -= len(earlier[index].reply) + sum(len(message.text) for message in earlier[index].messages)
        if room < 0:
            break
        start = index
    return start


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!\"'`")


def _log(probability: float) -> float:
    from math import log

    return log(max(probability, 1e-12))
