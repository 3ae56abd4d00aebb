"""MT-Bench: Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena (arXiv 2306.05685).

A model answers questions in two turns, and a judge gives each answer a score from 1 to 10. How far the judge can be
believed is measured beside it, on pairs of answers of which it is known which is better: every pair is judged in both
orders, and a win counts only if both name the same answer. That verdict is what a run is scored by, beside one
judgement of the order as it stands; it may well score less, for what the swap makes of wins are ties: its precision is
what it buys. Bind `judge` to a strong model other than the one under test. `reference` writes the right answers that
the judge is shown in mathematics, reasoning and coding; it is the judge itself unless it is bound.

    evolvent run mt-bench --env judging --tasks 80 --role judge=openai:MODEL --set source=mt-bench --set questions=80

A generation judges new pairs and asks its model new questions (MT-Bench's 80 are the same in each); nothing is learned.
Its row holds `graded` (scores by turn and category, each beside the judge's agreement with the truth), `judge` (the
audit), `versus` (the model against the writer of the references) and `references`.

Deviations from the paper and its released code:
- People's votes are not shipped: the truth of planted pairs stands in for them, one vote a pair, in both setups.
- Planted pairs are single turns. Their references come with them; the judge's own are used for the questions.
- The baseline of pairwise grading is the writer of the references, on first turns, in the categories that have them.
  The judge sees no reference there: it would be one of the two answers.
- A score or verdict is read from the last brackets of a reply, not the first; one outside 1 to 10 is none.
- Pairs that cannot be read are left out of the audit, and count as wrong in the run's own score.
- An answer that the judge's failed call left ungraded is dropped as an unreadable one is; the drop rate is told.
- Failed calls are tried again as everywhere here, not 16 times. The winner by a difference of scores is not worked out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.errors import SetupError
from evolvent.agents.evaluation import judge_audit, judge_scores
from evolvent.agents.evaluation.judge_scores import Graded
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback import planted
from evolvent.agents.feedback.judge import comparison, grading, score_of, verdict_of
from evolvent.agents.feedback.planted import Orders
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.environments.catalog import build_inline
from evolvent.environments.errors import WorldError
from evolvent.environments.judged_questions import WITH_REFERENCE, Category
from evolvent.environments.judging import Pair, Source, category_of, turns_of
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import EVALUATION_ONLY, Message, Task

ROLES = ("actor", "judge", "reference")
ENVIRONMENTS = ("judging",)
CARRIES_OVER = False
"""A judge that has judged is the same judge, and so is the model that has been judged."""

TEMPERATURES: Mapping[Category, float] = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "reasoning": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""At which the model under test answers. The judge and the references are greedy."""
WRITE_REFERENCE = (
    "Answer the user. Work the answer out step by step and check it: it will be the one by which others are judged."
)
ANSWERS, REFERENCES = "answers", "references"
"""Arms of the episodes in which the environment hears both."""
PAIR, BARE, VERSUS = "pair", "bare", "versus"
"""What the judge is asked about pairs: planted ones, those again without a reference, the model beside another."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int = Field(4, ge=1)
    """That the model under test is asked in a generation, two turns each."""
    source: Source = "generated"
    """Whose they are: generated ones, whose answers can be checked, or the 80 of MT-Bench."""
    folder: str = ""
    """MT-Bench's wheel, or a folder with its files; empty takes the installed package."""
    answer_tokens: int = Field(32, ge=1)
    """Of an answer or a reference at most."""
    judge_tokens: int = Field(32, ge=1)
    """Of a judgement at most."""
    least_agreement: float = Field(0.0, ge=0, le=1)
    """Beyond the paper: scores of a judge that agrees with the truth of the planted pairs less often than this, ties
    included, are marked as not accepted."""


PRESETS = {
    "small": Config(),
    "paper": Config(questions=80, source="mt-bench", answer_tokens=1024, judge_tokens=2048),
}


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with what came of it."""

    task: Task
    replies: tuple[str, str]
    right: tuple[bool, bool] | None
    """By turn, as the environment checked them; None where nobody but a judge can."""

    @property
    def category(self) -> Category:
        return category_of(self.task)


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → answer → reference → grade → pair → audit → filter → submit → evaluate."""

    async def tasks(state: State, runtime: Runtime[Context]) -> State:
        """New pairs to judge; whether there are questions to ask is told before any work."""
        context = runtime.context
        given = context.objective.environment_at(state["generation"] + 1).options
        if (given.get("kind", "pairs"), given.get("source", "generated")) != ("pairs", "generated"):
            raise SetupError(
                "mt-bench needs generated pairs to know its judge by: leave judging's kind and source alone. "
                "Whose questions it asks is a setting of its own: --set source=mt-bench."
            )
        try:
            update = await answering.tasks(state, runtime)
            found = _questions(config, context, update["generation"])
        except WorldError as error:
            raise SetupError(str(error)) from error
        name = "its own judge" if _same(context, "judge", "actor") else "judged by another"
        context.say(f"generation {update['generation']}: {len(found)} questions, the model is {name}")
        return update

    async def answer(state: State, runtime: Runtime[Context]) -> State:
        """Both turns in one conversation: an episode of the environment's questions."""
        context, generation = runtime.context, state["generation"]
        asked = _questions(config, context, generation)
        jobs = [_asked(config, context, task, generation) for task in asked]
        await context.rollouts.run(_spec(config, context, generation), jobs)
        return {"episodes": [job.key for job in jobs]}

    async def reference(state: State, runtime: Runtime[Context]) -> State:
        """Right answers in the categories that have them, written without a look at anybody else's."""
        context, pad, generation = runtime.context, Scratchpad(runtime.context, state), state["generation"]
        asked = [task for task in _questions(config, context, generation) if category_of(task) in WITH_REFERENCE]
        context.say(f"generation {generation}: writing {len(asked)} references")
        await pad.each(_write(config, pad, task, _writer(context)) for task in asked)
        if config.source == "generated":  # what they are worth can be told
            jobs = [
                _handed_in(context, task, tuple(written), generation)
                for task in asked
                if len(written := _references(pad, task)) == 2
            ]
            await context.rollouts.run(_spec(config, context, generation), jobs)
        return {}

    async def grade(state: State, runtime: Runtime[Context]) -> State:
        """One score a turn; the second with the whole conversation before it."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        answered = _answered(config, context, state["generation"])
        context.say(f"generation {state['generation']}: grading {2 * len(answered)} answers")
        await pad.each(
            _judge(
                config,
                pad,
                each.task,
                "grade",
                grading(
                    turns_of(each.task)[: turn + 1], each.replies[: turn + 1], _references(pad, each.task)[: turn + 1]
                ),
                turn,
            )
            for each in answered
            for turn in range(2)
        )
        return {}

    async def pair(state: State, runtime: Runtime[Context]) -> State:
        """Planted pairs, and the model's answers beside the references: twice each, the second time swapped."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        deals = planted.dealt(pad.tasks)
        context.say(f"generation {state['generation']}: judging {len(deals)} pairs in both orders")
        versus = [orders for each in _answered(config, context, state["generation"]) if (orders := _versus(pad, each))]
        await pad.each(
            _judge(config, pad, order.task, purpose, comparison(order.pair), order.number)
            for purpose, pairs in ((PAIR, [*deals.values()]), (VERSUS, versus))
            for orders in pairs
            for order in orders
        )
        return {}

    async def audit(state: State, runtime: Runtime[Context]) -> State:
        """Pairs with a reference once more without it."""
        pad = Scratchpad(runtime.context, state)
        await pad.each(
            _judge(config, pad, order.task, BARE, comparison(order.pair, reference=False), order.number)
            for orders in planted.dealt(pad.tasks).values()
            for order in orders
            if order.pair.reference
        )
        return {}

    async def filter_(state: State, runtime: Runtime[Context]) -> State:
        """What stands in both orders, and what the order as it stands would have given."""
        pad = Scratchpad(runtime.context, state)
        for orders in planted.dealt(pad.tasks).values():
            stand = planted.verdicts(orders, planted.said(pad, orders, PAIR))
            for task in {order.task.id: order.task for order in orders}.values():
                pad.note(task, "verdict", stand[task.id] or "")
                pad.note(task, "single", verdict_of(pad.said(task, PAIR) or "") or "")
        return {}

    async def submit(state: State, runtime: Runtime[Context]) -> State:
        """The filtered verdicts."""
        update = await answering.submit(state, runtime, answer=lambda pad, task: pad.said(task, "verdict") or "")
        return update | {"episodes": [*state["episodes"], *update["episodes"]]}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the single judgements; the row says what the model scored and how far that can be believed."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        later = partial(_told, config, context, pad, state["generation"])
        return await answering.evaluate(state, runtime, direct="single", later=later)

    return cycle(
        {},
        {
            "tasks": tasks,
            "answer": answer,
            "reference": reference,
            "grade": grade,
            "pair": pair,
            "audit": audit,
            "filter": filter_,
            "submit": submit,
            "evaluate": evaluate,
        },
    )


# -- questions ---------------------------------------------------------------------------------------------------------


def _spec(config: Config, context: Context, generation: int) -> EnvironmentSpec:
    own = context.objective.environment_at(generation).options
    options = {"kind": "questions", "source": config.source, "folder": config.folder, "world": own.get("world", 0)}
    return EnvironmentSpec("judging", options)


def _questions(config: Config, context: Context, generation: int) -> list[Task]:
    """Held-out tasks always: they measure a model and teach none."""
    world = build_inline(_spec(config, context, generation))
    return world.tasks("test", config.questions, context.seed * 1000 + generation)


def _asked(config: Config, context: Context, task: Task, generation: int) -> Job:
    """In a phase that nobody learns from, and that does not pass for the tasks of the run's own score."""
    temperature = TEMPERATURES[category_of(task)]
    policy = Policy(context.model("actor"), temperature=temperature, max_reply_tokens=config.answer_tokens)
    return Job(task, {"": policy}, "control", generation, arm=ANSWERS, seed=context.seed)


def _handed_in(context: Context, task: Task, texts: tuple[str, ...], generation: int) -> Job:
    policy = Policy(context.model(_writer(context)), demonstrated=texts)
    return Job(task, {"": policy}, "control", generation, arm=REFERENCES, seed=context.seed)


def _answered(config: Config, context: Context, generation: int, arm: str = ANSWERS) -> list[Answered]:
    """Questions whose episode was not cut short by a failure, in order."""
    found = []
    for task in _questions(config, context, generation):
        episode = context.memory.ledger.episode(f"control/{generation}/{task.id}/0/{arm}")
        (seat,) = episode or (None,)
        if seat is not None and not seat.outcome.failure:
            first, second = seat.steps
            right = None if EVALUATION_ONLY in task.tags else (first.reward > 0, second.reward > 0)
            found.append(Answered(task, (first.reply, second.reply), right))
    return found


async def _write(config: Config, pad: Scratchpad, task: Task, role: str) -> str:
    messages = [Message("system", "instructions", WRITE_REFERENCE)]
    text = ""
    for turn, question in enumerate(turns_of(task)):
        messages.append(user(question))
        text = await pad.ask(task, "reference", messages, turn, role=role, max_tokens=config.answer_tokens)
        messages.append(assistant(text))
    return text


def _references(pad: Scratchpad, task: Task) -> list[str]:
    """By turn, up to the first that is missing; none in categories that have none."""
    found = [pad.said(task, "reference", turn) or "" for turn in range(2)]
    return found[: found.index("")] if "" in found else found


# -- judging -----------------------------------------------------------------------------------------------------------


async def _judge(
    config: Config, pad: Scratchpad, task: Task, purpose: str, messages: Sequence[Message], number: int
) -> str:
    return await pad.ask(task, purpose, messages, number, role="judge", max_tokens=config.judge_tokens)


def _versus(pad: Scratchpad, each: Answered) -> Orders | None:
    """The first answer of the model under test, A, beside the reference, in both orders; None without a reference."""
    question = turns_of(each.task)[0]
    for reference in _references(pad, each.task)[:1]:
        pair = Pair(question, (question,), (each.replies[0], reference), "", each.category)
        return planted.in_both_orders(each.task, pair)
    return None


# -- what the row says -------------------------------------------------------------------------------------------------


def _told(config: Config, context: Context, pad: Scratchpad, generation: int) -> dict[str, Any]:
    answered = _answered(config, context, generation)
    written = {each.task.id: each for each in _answered(config, context, generation, REFERENCES)}
    judge = _reliability(config, context, pad, generation)
    believed = judge["agreement"]["all_votes"]
    beside = {"judge_agreement": believed["share"], "judged_pairs": believed["n"]}
    graded = _graded(pad, answered)
    versus = [(each, planted.said(pad, orders, VERSUS).verdict) for each in answered if (orders := _versus(pad, each))]
    equal = [verdict for each, verdict in versus if _equal(each, written.get(each.task.id))]
    wanted = [each.task for each in answered if each.category in WITH_REFERENCE]
    return {
        "judge": judge,
        "graded": _beside(judge_scores.summary(graded, seed=context.seed), beside)
        | {
            "scores": {
                each.task.id: [row.score for row in graded if row.question == each.task.id] for each in answered
            },
            "unanswered": config.questions - len(answered),
        },
        "versus": judge_scores.win_rates([verdict for _, verdict in versus])
        | {
            "self_preference": judge_scores.self_preference(equal)
            if _same(context, "judge", _writer(context))
            else None
        },
        "references": {
            "missing": sum(len(_references(pad, task)) < 2 for task in wanted),
            "wrong": sum(not right for each in written.values() for right in each.right or ()),
        },
    }


def _reliability(config: Config, context: Context, pad: Scratchpad, generation: int) -> dict[str, Any]:
    """The judge on planted pairs."""
    found = judge_audit.audit(planted.judged(context, pad, generation, purpose=PAIR, bare=BARE))
    return {
        "model": context.model("judge").name,
        "is_the_model_under_test": _same(context, "judge", "actor"),
        "accepted": found["agreement"]["all_votes"]["share"] >= config.least_agreement,
        **found,
    }


def _graded(pad: Scratchpad, answered: Sequence[Answered]) -> list[Graded]:
    return [
        Graded(
            each.task.id,
            turn + 1,
            each.category,
            score_of(pad.said(each.task, "grade", turn) or ""),
            each.right[turn] if each.right else None,
        )
        for each in answered
        for turn in range(2)
    ]


def _equal(one: Answered, other: Answered | None) -> bool:
    """Whether nobody can say that one first answer is better: both right, both wrong, or open."""
    if one.right is None or other is None or other.right is None:
        return one.right is None
    return one.right[0] == other.right[0]


def _beside(scores: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The same in every score of a summary."""
    if "mean" in scores:
        return {**scores, **more}
    return {name: _beside(each, more) for name, each in scores.items()}


def _writer(context: Context) -> str:
    """The role that writes the references."""
    return "reference" if "reference" in context.models else "judge"


def _same(context: Context, one: str, other: str) -> bool:
    return context.model(one).name == context.model(other).name
