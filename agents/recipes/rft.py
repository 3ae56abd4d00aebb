"""RFT: rejection-sampling fine-tuning, of Scaling Relationship on Learning Mathematical Reasoning (arXiv 2308.01825).

A model that was fine-tuned on the gold solutions samples many of its own for each training question. Those with the
right answer and sound equations are kept, one for each ordered list of equations, and the base model is fine-tuned on
them together with all gold solutions. One generation is that one round. In the next one another fine-tuned model, of
another seed, samples, and the paths of all samplers are pooled, as in the paper's U13B: no sampler learns from samples.

Deviations from the paper and its released code:
- An adapter is trained instead of all weights. The preset `paper` keeps the learning rate of the paper, low for one.
- Samplers differ by the seed of their training, not by the base they start from.
- Equations are read by a small evaluator: the released code runs `eval` on them. A chain `2+3=5=10/2` is checked on
  every side, and a solution without equations is rejected, which the released code lets through.
- The learning rate falls linearly after its warm-up, not by a cosine.
- Accuracy is that of one greedy solution; the majority of 100 is not measured.
"""

from __future__ import annotations

from functools import partial

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evolution import State, cycle, experiences
from evolvent.agents.refinement.correct import by_task, correct, keep_rows, kept_rows
from evolvent.agents.refinement.distinct import distinct_paths
from evolvent.agents.solutions.demonstration import demonstrate
from evolvent.agents.solutions.sample import prompted, sample, sampled
from evolvent.agents.solutions.seats import learning_seat
from evolvent.agents.tasks.fixed import fixed_tasks, training_set
from evolvent.agents.weights import served, train
from evolvent.environments.derivation import equations_hold
from evolvent.environments.types import Trajectory
from evolvent.memory.weights.adapters import Adapter
from evolvent.memory.weights.examples import supervised
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems",)
CARRIES_OVER = True
_WRITTEN = 0
"""Generation to which the gold solutions belong: they were there before the first."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(4, ge=1)
    """k: of each training question, by each sampler."""
    temperature: float = Field(0.7, ge=0)
    reply_tokens: int = Field(64, ge=1)
    """Of one solution at most."""
    distinct: bool = True
    """One solution for each list of equations; off, all that are right (an ablation of the paper)."""
    epochs: float = Field(3, gt=0)
    """Of each fine-tuning."""
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(8, ge=1)


PRESETS = {
    "small": Config(),
    "paper": Config(samples=100, reply_tokens=256, learning_rate=2e-5, batch_size=128),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per sampler: tasks → clone → sample → feedback → refine → update → evaluate."""
    seats = partial(prompted, reply_tokens=config.reply_tokens)

    async def gold(context: Context) -> list[Trajectory]:
        keys = await demonstrate(context, training_set(context).tasks, generation=_WRITTEN)
        return [each.trajectory for each in experiences(context, keys)]

    async def sampler(context: Context, generation: int) -> Adapter:
        """The base model, fine-tuned on the gold solutions with that generation's seed."""
        rows = supervised(await gold(context), name="gold")
        training = _training(config, seed=1000 * context.seed + generation)
        return await train(context, "sft", rows, generation=generation, training=training)

    async def baseline(state: State, runtime: Runtime[Context]) -> State:
        return await phases.baseline(state, runtime, seats=seats)

    async def clone(state: State, runtime: Runtime[Context]) -> State:
        """Supervised training on the gold solutions: the model that samples."""
        return {"adapter": (await sampler(runtime.context, state["generation"])).full_name}

    async def draw(state: State, runtime: Runtime[Context]) -> State:
        """Many solutions of every training question."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: sampling {config.samples} solutions of each question")
        model = await served(context, phases.adapter_of(context, state))
        policies = seats(context, model, temperature=config.temperature)
        questions = training_set(context).tasks
        return {"episodes": await sample(context, questions, policies, generation=generation, k=config.samples)}

    async def refine(state: State, runtime: Runtime[Context]) -> State:
        """All gold solutions, and what is right and new of all samplers so far."""
        context, questions = runtime.context, training_set(runtime.context).tasks
        keys = [
            key
            for generation in range(1, state["generation"] + 1)
            for key in sampled(questions, generation=generation, k=config.samples)
        ]
        right = [each for each in correct(experiences(context, keys)) if equations_hold(_text(each))]
        if config.distinct:
            right = [each for tried in by_task(right).values() for each in _distinct(tried)]
        return keep_rows(context, supervised([*await gold(context), *right], name="rft"))

    async def update(state: State, runtime: Runtime[Context]) -> State:
        """The base model again, on the whole pool."""
        context, generation = runtime.context, state["generation"]
        rows = kept_rows(context, state)
        training = _training(config, seed=context.seed)
        adapter = await train(context, "rft", rows, generation=generation, training=training)
        return {"adapter": adapter.full_name}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """The new model on held-out questions, beside the sampler, which learned from gold solutions alone."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: evaluating the sampler on held-out questions")
        policies = seats(context, await served(context, await sampler(context, generation)))
        supervision = await evaluate_held_out(
            context, policies, generation=generation, phase="control", arm="sft", player=learning_seat(context)
        )
        told = {
            "sft_scores": {task: list(scores) for task, scores in supervision.scores.items()},
            "dataset": state["dataset"],
            "rows": len(kept_rows(context, state)),
        }
        return await phases.evaluate(state, runtime, seats=seats, more=told)

    return cycle(
        {"baseline": baseline},
        {
            "tasks": fixed_tasks(),
            "clone": clone,
            "sample": draw,
            "feedback": phases.feedback,
            "refine": refine,
            "update": update,
            "evaluate": evaluate,
        },
    )


def _training(config: Config, *, seed: int) -> Training:
    return Training(epochs=config.epochs, learning_rate=config.learning_rate, batch_size=config.batch_size, seed=seed)


def _distinct(tried: list[Trajectory]) -> list[Trajectory]:
    """Of one question's right solutions, those that go another way."""
    return [tried[place] for place in distinct_paths([_text(each) for each in tried])]


def _text(trajectory: Trajectory) -> str:
    return trajectory.steps[-1].reply
