"""The episode graph with real environments: seats, private observations, failures, the window, and what is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from workshop_scorer import repeats_or_guesses

from evolvent.agents.episode import Job, play
from evolvent.agents.models.role import Limits, RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import Lessons
from evolvent.agents.trace import Trace, read_lines
from evolvent.environments.errors import SandboxCrashError, SandboxTimeoutError, WorldError
from evolvent.environments.types import Action, StepResult, Trajectory, dump, load, merge
from evolvent.environments.workshop import Workshop

ONCE = Limits(attempts=1)


def options(messages: Sequence[BaseMessage]) -> list[str]:
    return str(messages[-1].text).rpartition("Answer with one of: ")[2].split(" | ")


def writer() -> ScriptedChatModel:
    """Writes the first option it is told."""
    return ScriptedChatModel(lambda messages: options(messages)[0])


def scorer() -> ScriptedScorer:
    return ScriptedScorer([], score=repeats_or_guesses)


class Stage:
    """A world, a trace, and what came of playing one task there."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.world = Workshop(**settings)
        self._file = folder / "trace.jsonl"
        self.trace = Trace(self._file)

    async def play(self, seats: Mapping[str, Any], **policy: Any) -> tuple[Trajectory, ...]:
        policies = {seat: Policy(RoleModel("m", model, self.trace, ONCE), **policy) for seat, model in seats.items()}
        task = self.world.tasks("train", 1, 0)[0]
        return await play(Job(task, policies, "train", 1, seed=3), self.world)

    def traced(self) -> list[dict[str, Any]]:
        self.trace.close()
        return read_lines(self._file)


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    opened: list[Stage] = []

    def stage(**settings: Any) -> Stage:
        opened.append(Stage(tmp_path, **settings))
        return opened[-1]

    yield stage
    for each in opened:
        each.trace.close()


def sent(trajectory: Trajectory) -> list[list[dict[str, str]]]:
    """Every step's prompt as the trace would show it."""
    prompts = [merge(trajectory.prompt(step)) for step in range(len(trajectory.steps))]
    return [[{"role": role, "content": text} for role, text in turns] for turns in prompts]


@pytest.mark.parametrize("make", [writer, scorer])
@pytest.mark.parametrize("window_tokens", [6000, 60])
async def test_the_prompt_of_every_step_is_what_was_sent(
    stages: Callable[..., Stage], make: Any, window_tokens: int
) -> None:
    stage = stages(cures=8, flaws=4)
    (trajectory,) = await stage.play({"": make()}, window_tokens=window_tokens, recall=Lessons())
    assert len(trajectory.steps) >= 4
    traced = stage.traced()
    assert sent(trajectory) == [row["messages"] for row in traced]
    assert [step.reply for step in trajectory.steps] == [row["reply"] for row in traced]
    assert {row["episode"] for row in traced} == {trajectory.id}


async def test_a_window_that_overflows_loses_the_oldest_turns_and_never_the_head(stages: Callable[..., Stage]) -> None:
    stage = stages(cures=8, flaws=4)
    model = writer()
    (trajectory,) = await stage.play({"": model}, window_tokens=60)
    starts = [step.history_from for step in trajectory.steps]
    assert starts == sorted(starts)
    assert starts[-1] > 0
    last = [str(message.text) for message in model.requests[-1]]
    assert last[0] == stage.world.instructions
    assert trajectory.task.prompt in last[1]
    assert len(model.requests[-1]) < len(model.requests[0]) + 2 * (len(trajectory.steps) - 1)


async def test_an_episode_is_the_same_each_time_it_is_played(stages: Callable[..., Stage]) -> None:
    def told(trajectory: Trajectory) -> list[tuple[str, float]]:
        return [(step.reply, step.reward) for step in trajectory.steps]

    first, second = [(await stages().play({"": scorer()}, temperature=2.0))[0] for _ in range(2)]
    assert told(first) == told(second)


async def test_each_seat_acts_on_what_it_alone_sees(stages: Callable[..., Stage]) -> None:
    stage = stages(seats=2)
    models = {"client": writer(), "mender": writer()}
    client, mender = await stage.play(models)
    assert (client.player, mender.player) == ("client", "mender")
    assert (client.id, mender.id) == (
        "train/1/" + client.task.id + "/0/client",
        "train/1/" + client.task.id + "/0/mender",
    )
    private = {"client": "mended first", "mender": "You would rather spare"}
    for seat, trajectory in (("client", client), ("mender", mender)):
        read = "\n".join(str(message.text) for request in models[seat].requests for message in request)
        for whose, secret in private.items():
            assert (secret in read) == (whose == seat)
        assert {step.player for step in trajectory.steps} == {seat}
        assert trajectory.outcome.score == pytest.approx(sum(step.reward for step in trajectory.steps))
    assert client.outcome.success == mender.outcome.success


async def test_seats_may_be_played_by_different_models_and_by_one(stages: Callable[..., Stage]) -> None:
    apart = await stages(seats=2).play({"client": writer(), "mender": scorer()})
    assert [each.steps[0].sampling.method for each in apart] == ["generate", "choose"]
    together = await stages(seats=2).play({"": scorer()})
    assert [each.steps[0].sampling.method for each in together] == ["choose", "choose"]


async def test_a_model_that_fails_in_mid_episode_ends_it_with_the_cause_and_the_steps_so_far(
    stages: Callable[..., Stage],
) -> None:
    model = ScriptedChatModel(["oil"])  # one reply, then an error
    (trajectory,) = await stages().play({"": model})
    assert len(trajectory.steps) == 1
    assert (trajectory.outcome.failure, trajectory.outcome.score) == ("model", 0.0)
    assert not trajectory.outcome.success
    assert "UnscriptedError" in trajectory.outcome.detail
    assert trajectory.cost.calls == 1


class Breaking(Workshop):
    """Plays until its second step."""

    error: WorldError = WorldError("broken")

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        result = super().step(actions)
        if self._play is not None and getattr(self._play, "_steps", 0) == 2:
            raise self.error
        return result


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (WorldError("a bug"), "environment"),
        (SandboxCrashError("its worker died"), "environment"),
        (SandboxTimeoutError("ran past 20 s"), "timeout"),
    ],
)
async def test_a_world_that_fails_ends_the_episode_with_the_cause(
    stages: Callable[..., Stage], error: WorldError, failure: str
) -> None:
    stage = stages()
    stage.world = Breaking()
    stage.world.error = error
    (trajectory,) = await stage.play({"": scorer()})
    assert (trajectory.outcome.failure, trajectory.outcome.detail) == (failure, str(error))
    assert len(trajectory.steps) == 1


@pytest.mark.parametrize("reply", ["", "xyzzy", "word " * 10_000, "\ud83d", "\x00", "oil\nwax"])
async def test_a_reply_that_names_no_action_costs_a_step_and_is_kept(stages: Callable[..., Stage], reply: str) -> None:
    (trajectory,) = await stages().play({"": ScriptedChatModel(lambda messages: reply)})
    assert trajectory.outcome.failure == ""
    assert trajectory.steps
    assert load(Trajectory, dump(trajectory)) == trajectory


async def test_an_agent_that_repeats_itself_may_be_stopped(stages: Callable[..., Stage]) -> None:
    stage = stages(cures=8, flaws=4)
    (trajectory,) = await stage.play({"": ScriptedChatModel(lambda messages: "xyzzy")}, stop_on_repeat=True)
    assert [step.reply for step in trajectory.steps] == ["xyzzy", "xyzzy"]
    assert "repeated" in trajectory.outcome.detail
