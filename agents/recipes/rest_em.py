"""ReST-EM: Scaling Self-Training for Problem-Solving with Language Models (arXiv 2312.06585).

One generation is one iteration of expectation and maximisation. The model solves every problem many times; a binary
check keeps what is right, so much of each problem at most; and the base model, never the model of the iteration before,
is fine-tuned on just that, with the same solved examples in its prompt as it was sampled with.

Deviations from the paper, which has no public code and states no learning rate:
- An adapter is trained instead of all weights, for `epochs` over what was kept: no checkpoint is chosen by validation.
- Samples are drawn at a temperature alone, without the paper's cut to the 40 likeliest tokens.
- No iteration is the last because validation stands still: the run says how many there are.
- Equal solutions of one problem are one row that weighs as many.
- Where nothing was right, nothing is trained: the run says so, and the generation keeps the weights it sampled with.
- Accuracy is that of one greedy solution; pass@k and the majority of 64 are not measured.
"""

from __future__ import annotations

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, experiences
from evolvent.agents.models.role import RoleModel
from evolvent.agents.refinement.correct import as_often, by_task, capped, correct, keep_rows, kept_rows
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.sample import prompted, sample
from evolvent.agents.solutions.shots import Shots, solved
from evolvent.agents.tasks.fixed import fixed_tasks, training_set
from evolvent.agents.weights import served, train
from evolvent.memory.weights.examples import supervised
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems", "reasoning_gym")
CARRIES_OVER = True


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: int = Field(2, ge=0)
    """Solved examples before every problem: in sampling, in training, in evaluation."""
    samples: int = Field(6, ge=1)
    """Of each problem in an iteration."""
    temperature: float = Field(0.7, ge=0)
    cap: int = Field(3, ge=1)
    """Right solutions of one problem that are trained on at most."""
    reply_tokens: int = Field(64, ge=1)
    """Of one solution at most."""
    epochs: float = Field(2, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(8, ge=1)


PRESETS = {
    "small": Config(),
    "paper": Config(shots=4, samples=32, cap=10, reply_tokens=512, learning_rate=2e-4),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per iteration: tasks → sample → feedback → refine → update → evaluate."""

    def seats(context: Context, model: RoleModel, *, temperature: float = 0.0) -> dict[str, Policy]:
        """Every seat's policy with that model, shown the same solved examples."""
        text = solved(context, training_set(context, config.shots).examples)
        return prompted(context, model, Shots(text), temperature=temperature, reply_tokens=config.reply_tokens)

    async def baseline(state: State, runtime: Runtime[Context]) -> State:
        return await phases.baseline(state, runtime, seats=seats)

    async def draw(state: State, runtime: Runtime[Context]) -> State:
        """E: many solutions of every problem, by the weights of the iteration before."""
        context, generation = runtime.context, state["generation"]
        context.say(f"iteration {generation}: sampling {config.samples} solutions of each problem")
        policies = seats(
            context, await served(context, phases.adapter_of(context, state)), temperature=config.temperature
        )
        problems = training_set(context, config.shots).tasks
        return {"episodes": await sample(context, problems, policies, generation=generation, k=config.samples)}

    async def refine(state: State, runtime: Runtime[Context]) -> State:
        """What is right, at most `cap` of each problem, with the examples in the prompt."""
        context, generation = runtime.context, state["generation"]
        right = correct(experiences(context, state["episodes"]))
        some = capped(right, config.cap, lambda task: context.rng("cap", generation, task))
        return keep_rows(context, as_often(supervised(some, name="rest-em", memory="kept")))

    async def update(state: State, runtime: Runtime[Context]) -> State:
        """M: the base model, fine-tuned on this iteration's solutions alone."""
        context, generation = runtime.context, state["generation"]
        rows = kept_rows(context, state)
        if not len(rows):
            context.say(f"iteration {generation}: no problem was solved, so nothing is trained. Take easier ones.")
            return {}
        training = Training(
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            batch_size=config.batch_size,
            seed=context.seed,
        )
        adapter = await train(context, "rest-em", rows, generation=generation, training=training)
        return {"adapter": adapter.full_name}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """The new model alone, on held-out problems."""
        right = by_task(correct(experiences(runtime.context, state["episodes"])))
        solves = {task: len(right.get(task, [])) for task in state["tasks"]}
        return await phases.evaluate(state, runtime, seats=seats, more={"solves": solves})

    return cycle(
        {"baseline": baseline},
        {
            "tasks": fixed_tasks(config.shots),
            "sample": draw,
            "feedback": phases.feedback,
            "refine": refine,
            "update": update,
            "evaluate": evaluate,
        },
    )
