"""ProAgent: Building Proactive Cooperative Agents with Large Language Models (arXiv 2308.11339).

A frozen model cooks beside a partner. It plans one skill at a time, preconditions are checked in code, what fails is
explained and planned anew, and moves between plans come from a search for ways (`solutions/proactive.py`). It may also
predict the partner's next skill and be told what the partner really did. One generation is one pass over new kitchens,
beside the same model whose plans nobody checks. Without `bots` the model cooks in both seats.

Deviations from the paper and its released code:
- A cook who waits stands still; in the released code it takes random steps and may block its partner.
- Where the two are in each other's way the controller yields with probability one half; the released code takes random
  steps after a while.
- A skill that has not come to its end after `skill_limit` steps is given up, and the planner is asked again.
- A soup that was put down may be picked up again. Things are put down where the partner can reach them.
- The explainer is asked about the scene and the failed skill alone, as the released code does: its history there is
  kept and never shown.
- A skill at work whose preconditions fail counts as the first of the failures of its step.
- A kitchen has one pot and the horizon of its environment (`kitchen:horizon=400` is the paper's); a score is a share of
  the soups that two greedy partners serve, 20 points a soup in the paper.
"""

from __future__ import annotations

from typing import Any, Self

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field, model_validator

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.proactive import Proactive, Verification, asked, library
from evolvent.agents.solutions.shots import Shots
from evolvent.environments.types import Phase

ROLES = ("actor",)
ENVIRONMENTS = ("kitchen",)
CARRIES_OVER = False
"""The planner's messages, its predictions and what the partner did end with the episode."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    verification: Verification = "model"
    """Who says why a skill cannot be carried out: `model` asks the explainer; `code` tells what the check found, which
    halves the calls (beyond the paper); `silent` says only that it cannot; `none` checks nothing."""
    intention: bool = False
    """The planner also says which skill its partner does next."""
    belief_correction: bool = False
    """The planner sees what it predicted of its partner and what the partner really finished."""
    memory_k: int = Field(1, ge=0)
    """K: earlier messages shown after a failure."""
    max_replans: int = Field(3, ge=0)
    """Plans after one that failed, before a step is waited."""
    wait_limit: int = Field(20, ge=1)
    """Steps of a wait at most."""
    skill_limit: int = Field(40, ge=1)
    """Steps after which a skill that has not come to its end is given up."""
    queries: int | None = Field(None, ge=1)
    """Times at most that a cook turns to its planner in an episode; after that it stands still. None is no limit."""
    reply_tokens: int = Field(256, ge=1)
    """Of a plan or an explanation at most."""

    @model_validator(mode="after")
    def _beliefs_are_corrected_where_there_are_any(self) -> Self:
        if self.belief_correction and not self.intention:
            raise ValueError("belief_correction corrects predictions: set intention=true as well")
        return self


PRESETS = {
    "small": Config(queries=2, max_replans=1, reply_tokens=32),
    "paper": Config(),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → cook → evaluate."""

    def seat(context: Context, verification: Verification) -> Policy:
        return Policy(
            context.model("actor"),
            Shots(library(intention=config.intention, wait_limit=config.wait_limit)),
            max_reply_tokens=config.reply_tokens,
            manner=manner_of(config, verification),
        )

    async def cook(state: State, runtime: Runtime[Context]) -> State:
        """Every kitchen once, with the plans checked."""
        runtime.context.say(f"generation {state['generation']}: cooking in {len(state['tasks'])} kitchens")
        checked = seat(runtime.context, config.verification)
        return await answering.perform(state, runtime, seat=lambda pad, task: checked)

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the same model whose plans nobody checks."""
        context, generation = runtime.context, state["generation"]
        unchecked = seat(context, "none")

        def told() -> dict[str, Any]:
            """By trajectory: steps at which the planner was asked, and those spent on what could not be done."""
            rows: dict[str, dict[str, int]] = {"plans": {}, "illegal_steps": {}}
            arms: tuple[tuple[Phase, Verification], ...] = (("train", config.verification), ("control", "none"))
            for phase, verification in arms:
                cook = manner_of(config, verification)
                for episode in context.memory.ledger.episodes(phase=phase, generation=generation):
                    for each in episode.trajectories:
                        rows["plans"][each.id] = sum(map(asked, each.steps))
                        rows["illegal_steps"][each.id] = cook.illegal_steps(each)
            return rows

        return await answering.evaluate(state, runtime, seat=lambda pad, task: unchecked, later=told)

    return cycle({}, {"tasks": answering.tasks, "cook": cook, "evaluate": evaluate})


def manner_of(config: Config, verification: Verification) -> Proactive:
    """How a cook of this configuration goes about it, but for who checks its plans."""
    return Proactive(
        verification,
        intention=config.intention,
        belief=config.belief_correction,
        recent=config.memory_k,
        replans=config.max_replans,
        wait_limit=config.wait_limit,
        skill_limit=config.skill_limit,
        queries=config.queries,
    )
