"""From trajectories to data sets: what an agent did well to imitate, what it did badly, and which of two was better.

The prompt is rebuilt as the acting policy sends it, turn by turn, either with what memory had put into it or stripped
of that, so that weights learn to act without being told. Nothing is learned from an episode that infrastructure failed,
nor from data that are for evaluation only, nor, unless it is asked for, from any that was not played for training:
held-out tasks stay held out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import permutations
from statistics import fmean
from typing import Literal

from evolvent.environments.types import EVALUATION_ONLY, Phase, Step, Trajectory, conversation, merge
from evolvent.environments.types import Preference as EpisodePair
from evolvent.memory.weights.dataset import DataSet, Example, Messages, Origin, Preference, Reply, ordered

InPrompt = Literal["stripped", "kept"]
"""What memory said (the text before the task, the hints after observations): left out, or as it was."""
Which = Literal["success", "rewarded", "all"]
"""Steps of successful episodes; steps that were rewarded, in any episode; or all but decisions that failed."""
Weighting = Literal["equal", "score"]
_TRAINING: tuple[Phase, ...] = ("train",)


def prompt(trajectory: Trajectory, step: int, memory: InPrompt = "stripped") -> Messages:
    """The turns in answer to which that step was made, as the model got them.

    Stripped, they are what a policy that recalls nothing sends after the same steps. Where the oldest turns had left an
    overflowing window they stay out, though without memory another one might have fitted.
    """
    sent = trajectory.prompt(step)
    if memory == "stripped":
        sent = tuple(message for message in sent if message.part != "memory")
    return tuple({"role": role, "content": text} for role, text in merge(sent))


def supervised(
    trajectories: Iterable[Trajectory],
    *,
    name: str = "supervised",
    memory: InPrompt = "stripped",
    only: Which = "success",
    least_score: float = 0.0,
    weigh: Weighting = "equal",
    phases: Collection[Phase] = _TRAINING,
) -> DataSet:
    """One example for each step worth imitating. Replies that named no admissible action never are.

    Rejection sampling (arXiv 2308.01825) when `only` is "success": correct attempts, each said once. The same examples
    in the same order, whatever the order of the trajectories; empty when nothing was good enough.

    Args:
        least_score: episodes below it are left out; in [0, 1].
        weigh: each example 1, or the score of its episode; one without any score is then left out.
    """

    def weight(trajectory: Trajectory, step: Step) -> float:
        outcome = trajectory.outcome
        if outcome.score < least_score or (only == "success" and not outcome.success) or not _admissible(step):
            return 0.0
        wanted = step.reward > 0 if only == "rewarded" else not _failed(trajectory, step)
        return wanted * (outcome.score if weigh == "score" else 1.0)

    return ordered(name, _examples(_sound(trajectories, phases), memory, weight))


def negatives(
    trajectories: Iterable[Trajectory],
    *,
    name: str = "negatives",
    memory: InPrompt = "stripped",
    most_score: float = 0.0,
    phases: Collection[Phase] = _TRAINING,
) -> DataSet:
    """What not to do again, for KTO (arXiv 2402.01306) or unlikelihood: join it with `supervised` by `mixing.join`.

    These are the decisions that failed where each decision is rewarded, and all steps of episodes that scored
    `most_score` or less, in [0, 1], and did not succeed.
    """

    def weight(trajectory: Trajectory, step: Step) -> float:
        lost = trajectory.outcome.score <= most_score and not trajectory.outcome.success
        return float(bool(step.reply) and step.reward <= 0 and (lost or _failed(trajectory, step)))

    return ordered(name, _examples(_sound(trajectories, phases), memory, weight, desired=False))


def preferences(
    trajectories: Iterable[Trajectory],
    *,
    name: str = "preferences",
    memory: InPrompt = "stripped",
    least_margin: float = 0.0,
    phases: Collection[Phase] = _TRAINING,
) -> DataSet:
    """Pairs of different replies in one situation of one task and seat, of which one did better.

    Where a task rewards each decision, a situation is the observation's frame (its prompt in a world without frames)
    and a reply is worth its mean reward; the prompt is the better one's. Elsewhere it is the stripped prompt, so that
    attempts are compared at the step where they parted (ETO, arXiv 2403.02502, compares them from there to the end),
    and a reply is worth the mean score of the episodes that it led to. Means, because one of two equal replies may
    have been lucky; so no two pairs contradict each other.

    Args:
        least_margin: pairs must differ by more; in [0, 1).
    """
    attempts: dict[tuple[str, str], list[Trajectory]] = defaultdict(list)
    for trajectory in sorted(_sound(trajectories, phases), key=lambda each: each.id):
        attempts[_task(trajectory), trajectory.player].append(trajectory)
    items = [
        pair
        for tried in attempts.values()
        for situation in _situations(tried)
        for pair in _pairs(situation, memory, least_margin)
    ]
    return ordered(name, items)


def asked(trajectories: Iterable[Trajectory], *, name: str = "asked", phases: Collection[Phase] = _TRAINING) -> DataSet:
    """What episodes began with, for training by reward; the completion is what was said to it then, good or bad."""
    return ordered(
        name,
        (
            Example(prompt(each, 0), each.steps[0].reply, task=_task(each), origins=(Origin(each.id, 0),))
            for each in _sound(trajectories, phases)
        ),
    )


def dialogues(
    pairs: Iterable[EpisodePair], *, name: str = "dialogues", phases: Collection[Phase] = _TRAINING
) -> DataSet:
    """Preferences between whole episodes (ETO, arXiv 2403.02502), with memory stripped from the prompts.

    The prompt is what both begin with: instructions, task and first observation. The replies are all turns from there
    to the agent's last word. Left out are pairs that begin differently, and those with a turn that says nothing.
    """
    items = []
    for pair in pairs:
        both = list(_sound((pair.chosen, pair.rejected), phases))
        if len(both) < 2 or not all(step.reply for each in both for step in each.steps):
            continue
        if prompt(pair.chosen, 0) == prompt(pair.rejected, 0):
            chosen, rejected = (_reply(each) for each in both)
            made = tuple(Origin(each.id, index) for each in both for index in range(len(each.steps)))
            task = _task(pair.chosen)
            items.append(Preference(prompt(pair.chosen, 0), chosen, rejected, pair.margin, task=task, origins=made))
    return ordered(name, items)


# -- inside ------------------------------------------------------------------------------------------------------------

_Made = tuple[Trajectory, int, float]
"""A step, and what it was worth."""
_Situation = dict[str, list[_Made]]
"""By reply."""


def _sound(trajectories: Iterable[Trajectory], phases: Collection[Phase]) -> Iterator[Trajectory]:
    return (
        each
        for each in trajectories
        if each.phase in phases and not each.outcome.failure and EVALUATION_ONLY not in each.task.tags
    )


def _reply(trajectory: Trajectory) -> Reply:
    """What was said and heard after the first prompt, up to the last reply."""
    last = trajectory.steps[-1]
    whole = conversation(trajectory.steps[:-1], last.messages)
    heard = merge([message for message in whole if message.part != "memory"])
    told = tuple({"role": role, "content": text} for role, text in heard[len(prompt(trajectory, 0)) :])
    return (*told, {"role": "assistant", "content": last.reply}) if told else last.reply


def _task(trajectory: Trajectory) -> str:
    return f"{trajectory.task.environment}/{trajectory.task.id}"


def _by_decision(trajectory: Trajectory) -> bool:
    """Whether rewards are given before the end, so that a step without one was a wrong decision."""
    return any(step.reward for step in trajectory.steps[:-1])


def _failed(trajectory: Trajectory, step: Step) -> bool:
    return step.reward <= 0 and not trajectory.outcome.success and _by_decision(trajectory)


def _admissible(step: Step) -> bool:
    options = step.observation.actions
    return bool(step.reply) and (options is None or step.action.text in options)


def _shown(trajectory: Trajectory, memory: InPrompt) -> tuple[str, ...]:
    if memory == "stripped":
        return ()
    return tuple(sorted({each.record for each in trajectory.recalled if each.shown}))


def _examples(
    trajectories: Iterable[Trajectory],
    memory: InPrompt,
    weight: Callable[[Trajectory, Step], float],
    *,
    desired: bool = True,
) -> list[Example]:
    """One for each step of a weight above 0."""
    return [
        Example(
            prompt(trajectory, index, memory),
            step.reply,
            weighs,
            task=_task(trajectory),
            origins=(Origin(trajectory.id, index),),
            records=_shown(trajectory, memory),
            desired=desired,
        )
        for trajectory in trajectories
        for index, step in enumerate(trajectory.steps)
        if (weighs := weight(trajectory, step)) > 0
    ]


def _situations(attempts: Sequence[Trajectory]) -> list[_Situation]:
    """What attempts at one task did in each situation they met."""
    # Any attempt tells, because one in which all went wrong has no rewards to be seen.
    by_decision = any(_by_decision(each) for each in attempts)
    found: dict[str, _Situation] = defaultdict(lambda: defaultdict(list))
    for trajectory in attempts:
        for index, step in enumerate(trajectory.steps):
            if not step.reply:
                continue
            framed = by_decision and step.observation.frame != "{action}"
            key = step.observation.frame if framed else json.dumps(prompt(trajectory, index))
            worth = step.reward if by_decision else trajectory.outcome.score
            found[key][step.reply].append((trajectory, index, worth))
    return list(found.values())


def _pairs(situation: _Situation, memory: InPrompt, least_margin: float) -> Iterator[Preference]:
    worth = {reply: fmean(value for _, _, value in made) for reply, made in situation.items()}
    for chosen, rejected in permutations(situation, 2):
        margin = round(worth[chosen] - worth[rejected], 9)  # means that are equal may differ in their last bits
        trajectory, step, _ = situation[chosen][0]
        if margin > least_margin and _admissible(trajectory.steps[step]):
            made = [*situation[chosen], *situation[rejected]]
            yield Preference(
                prompt(trajectory, step, memory),
                chosen,
                rejected,
                min(margin, 1.0),
                task=_task(trajectory),
                origins=tuple(Origin(each.id, index) for each, index, _ in made),
                records=_shown(trajectory, memory),
            )
