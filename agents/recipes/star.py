"""STaR: Bootstrapping Reasoning With Reasoning (arXiv 2203.14465).

One generation is one outer iteration over the same questions. The model writes a rationale for each; where its answer
is wrong it is asked again with the right one given away; what then ends in the right answer is kept with the question
as it was, and the original model is fine-tuned on just that. The next iteration's rationales are the new model's.

Deviations from the paper and its released code:
- An adapter is trained instead of all weights. The preset `paper` keeps the learning rate of the paper, low for one.
- The solved examples are an expert's solutions of training questions that are not trained on, not written by hand.
- A hint is the final answer alone, before the question; the paper appends it, and the released code gives away the
  whole reference solution on GSM8K.
- Which failures are rationalised, when not all, is drawn for each question.
- No iteration is the last because accuracy stands still: the run says how many there are.
- Where nothing was right, nothing is trained, and the generation keeps the weights that it sampled with.
- Learning rates fall after a warm-up of 5 % of the steps, by `Training`; the paper's stays after 100 steps.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, experiences
from evolvent.agents.models.role import RoleModel
from evolvent.agents.refinement.correct import correct, keep_rows, kept_rows, wrong
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.sample import prompted, sample
from evolvent.agents.solutions.shots import Shots, hint, solved
from evolvent.agents.tasks.fixed import fixed_tasks, training_set
from evolvent.agents.weights import served, train
from evolvent.environments.derivation import equations_hold
from evolvent.environments.types import Task
from evolvent.memory.weights.examples import supervised
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems",)
CARRIES_OVER = True
HINTED = "hinted"
"""Arm of the episodes whose answer was given away."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: int = Field(3, ge=0)
    """Solved examples before a question; those of rationalisation have their answers given away too."""
    prompted: Literal["always", "first"] = "first"
    """Whether they stand there in every iteration, evaluations included, or only before the first training."""
    temperature: float = Field(0.0, ge=0)
    """Of rationales; at 0 an iteration asks the same model twice only where it was wrong."""
    reply_tokens: int = Field(64, ge=1)
    """Of one rationale at most."""
    rationalise: float = Field(1.0, ge=0, le=1)
    """Share of the failures that are tried again with the answer; 0 is plain bootstrapping."""
    start_steps: int = Field(12, ge=1)
    """Of the optimizer in the first iteration."""
    step_growth: float = Field(1.2, ge=1)
    """By which every iteration has more of them than the one before."""
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(8, ge=1)
    check_equations: bool = False
    """Beyond the paper: a rationale is kept only if its annotated equations hold too."""

    def steps(self, generation: int) -> int:
        """Of the optimizer in that iteration, from 1: 40, 48, 57, 69 … in the paper."""
        return int(round(self.start_steps * self.step_growth ** (generation - 1), 6))


PRESETS = {
    "small": Config(),
    "paper": Config(shots=10, prompted="always", reply_tokens=96, start_steps=40, learning_rate=1e-6, batch_size=80),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per iteration: tasks → solve → feedback → rationalise → refine → update → evaluate."""

    def seats(
        context: Context, model: RoleModel, *, trained: bool, hinted: bool = False, temperature: float = 0.0
    ) -> dict[str, Policy]:
        """Every seat's policy with what that model is shown: solved examples and, hinted, the answer."""
        shown = training_set(context, config.shots)
        text = "" if trained and config.prompted == "first" else solved(context, shown.examples, hinted=hinted)
        hints = {task.id: hint(task) for task in shown.tasks} if hinted else {}
        return prompted(context, model, Shots(text, hints), temperature=temperature, reply_tokens=config.reply_tokens)

    async def write(context: Context, state: State, tasks: list[Task], *, hinted: bool = False) -> list[str]:
        """Keys of one rationale for each of these questions, by the weights of the iteration before."""
        model = await served(context, phases.adapter_of(context, state))
        trained = bool(state["adapter"])
        policies = seats(context, model, trained=trained, hinted=hinted, temperature=config.temperature)
        return await sample(context, tasks, policies, generation=state["generation"], arm=HINTED if hinted else "")

    async def baseline(state: State, runtime: Runtime[Context]) -> State:
        return await phases.baseline(state, runtime, seats=partial(seats, trained=False))

    async def solve(state: State, runtime: Runtime[Context]) -> State:
        """One rationale for each question."""
        context = runtime.context
        context.say(f"iteration {state['generation']}: writing rationales")
        return {"episodes": await write(context, state, training_set(context, config.shots).tasks)}

    async def rationalise(state: State, runtime: Runtime[Context]) -> State:
        """One more for each question that was answered wrong, with the right answer given away."""
        context, generation = runtime.context, state["generation"]
        failed = [each.task for each in wrong(experiences(context, state["episodes"]))]
        again = [task for task in failed if context.rng(HINTED, generation, task.id).random() < config.rationalise]
        context.say(f"iteration {generation}: rationalising {len(again)} of {len(failed)} wrong answers")
        return {"episodes": [*state["episodes"], *await write(context, state, again, hinted=True)]}

    async def refine(state: State, runtime: Runtime[Context]) -> State:
        """What ended in the right answer, with the question as it was: neither examples nor hints."""
        right = correct(experiences(runtime.context, state["episodes"]))
        if config.check_equations:
            right = [each for each in right if equations_hold(each.steps[-1].reply)]
        return keep_rows(runtime.context, supervised(right, name="star"))

    async def update(state: State, runtime: Runtime[Context]) -> State:
        """The original model, fine-tuned on this iteration's rationales alone."""
        context, generation = runtime.context, state["generation"]
        rows = kept_rows(context, state)
        if not len(rows):
            context.say(f"iteration {generation}: no answer was right, so nothing is trained")
            return {}
        training = Training(
            steps=config.steps(generation),
            learning_rate=config.learning_rate,
            batch_size=config.batch_size,
            seed=context.seed,
        )
        adapter = await train(context, "star", rows, generation=generation, training=training)
        return {"adapter": adapter.full_name}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """The new model alone, on held-out questions."""
        right = correct(experiences(runtime.context, state["episodes"]))
        hinted = sum(each.id.endswith(f"/{HINTED}") for each in right)
        kept = {"questions": len(state["tasks"]), "direct": len(right) - hinted, "rationalised": hinted}
        plain = partial(seats, trained=bool(state["adapter"]))
        return await phases.evaluate(state, runtime, seats=plain, more={"kept": kept})

    return cycle(
        {"baseline": baseline},
        {
            "tasks": fixed_tasks(config.shots),
            "solve": solve,
            "feedback": phases.feedback,
            "rationalise": rationalise,
            "refine": refine,
            "update": update,
            "evaluate": evaluate,
        },
    )
