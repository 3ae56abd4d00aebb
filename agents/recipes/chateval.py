"""ChatEval: Towards Better LLM-based Evaluators through Multi-Agent Debate (arXiv 2308.07201).

Referees with different roles, one model in all of them, discuss two answers to a question for some turns and give marks
in the last. The whole debate is held again with the answers in the other order, and the answer with more marks in all
wins. One generation is one pass over new pairs, measured beside one direct verdict. Two referees and two turns take
eight calls, as many as `referees=4 turns=1 mode=simultaneous roles=same temperature=0.7`, which gives marks alone.

Deviations from the paper and its released code:
- Marks are asked for in the last turn alone, in every mode; the released code asks for them from the first round on
  where all speak at once. Marks that somebody gives earlier count for nothing.
- What other referees say comes as a user's text with their names; the released code sends it as the model's own words.
- A message without readable marks is no tie and no vote for the first answer: its referee is asked again, and left out
  where it stays so in either order, since its liking for a place would not cancel. With no referee left there is no
  verdict, which counts as a wrong one.
- Who is asked again sees that its marks could not be read; the paper repeats the same request.
- With a summary, a referee hears the summaries and not its own words of earlier turns. There is one after the last turn
  too, which nobody hears: it says for people how the debate ended.
- The order of messages of one turn is never shuffled.
- Roles bear the paper's names; what they say is ours. There are five, and a sixth referee needs `roles=same`.
- Texts that are rated one by one, as in the paper's dialogues, are not covered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evaluation.agreement import agreement
from evolvent.agents.evolution import Node, State, cycle
from evolvent.agents.feedback.judge import swapped
from evolvent.agents.feedback.planted import handed_in
from evolvent.agents.feedback.score_lines import (
    ASKED,
    ASKED_AGAIN,
    Marks,
    by_majority,
    by_total,
    marks_in,
)
from evolvent.agents.solutions.debate import Debate, Mode, Speaker
from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.environments.judging import Verdict, pair_of
from evolvent.environments.types import Task

ROLES = ("actor", "summarizer")
ENVIRONMENTS = ("judging",)
CARRIES_OVER = False
"""Every pair is discussed afresh: a debate about one leaves nothing for the next."""

MATTER = (
    "Question:\n{question}\n\nAnswer 1:\n{first}\n\nAnswer 2:\n{second}\n\nReferees judge these two answers together. "
    "What counts is whether an answer helps, keeps to the question, is accurate, and goes into as much detail as the "
    "question needs. Which of them stands first means nothing. Other referees are present: think for yourself, weigh "
    "what they say, and disagree where you see it otherwise."
)
TURN = "It is your turn. Say in at most three sentences what you think of the two answers. Give no marks yet."
LAST_TURN = f"It is your turn, and the last one. Explain your judgement in one or two sentences, then {ASKED}"
REFEREES = (
    Speaker(
        "General Public",
        "You are nobody's expert: you are whoever asked this question. You want an answer that you understand, that "
        "you could use, and that does not waste your time.",
    ),
    Speaker(
        "Critic",
        "You look for faults. You hold every name, number and step of an answer against the question, and you say "
        "which claim is wrong, missing or made up.",
    ),
    Speaker(
        "News Author",
        "You write for a newspaper. You look at what an answer reports: is it complete, is it in order, does it come "
        "to the point, and is any sentence empty?",
    ),
    Speaker(
        "Psychologist",
        "You know how people are swayed. You notice when an answer impresses by length, a sure tone or repetition, "
        "and ask what it says apart from that.",
    ),
    Speaker(
        "Scientist",
        "You believe nothing that you have not worked out. You solve the question for yourself first, and then see "
        "which answer agrees with you.",
    ),
)


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    referees: int = Field(2, ge=1, le=12)
    turns: int = Field(2, ge=1, le=8)
    """Messages of each referee in one debate; the last gives the marks."""
    mode: Mode = "one-by-one"
    """Who hears whom: all that was said before, what was said in earlier turns, or summaries of those."""
    roles: Literal["diverse", "same"] = Field("diverse", validate_default=True)
    """The same gives all referees the first role, under numbers."""
    swap: bool = True
    """Hold the debate in both orders of the answers."""
    decide: Literal["marks", "majority"] = "marks"
    """The sum of all marks, or the verdict that most referees' own sums come to."""
    only_disputed: bool = False
    """Beyond the paper: referees first give marks alone, and debate the pairs on which these do not agree. With
    two turns that saves calls where those are less than half of them."""
    temperature: float = Field(0.0, ge=0)
    parse_retries: int = Field(3, ge=0)
    """Times that a referee is asked again for marks that cannot be read."""
    reply_tokens: int = Field(48, ge=1)
    """Of one message or summary at most."""

    @field_validator("roles")
    @classmethod
    def _enough_roles(cls, roles: str, others: ValidationInfo) -> str:
        if roles == "diverse" and others.data.get("referees", 0) > len(REFEREES):
            raise ValueError(f"there are {len(REFEREES)} different roles: set referees={len(REFEREES)} or roles=same")
        return roles

    @property
    def panel(self) -> tuple[Speaker, ...]:
        if self.roles == "diverse":
            return REFEREES[: self.referees]
        return tuple(Speaker(f"Referee {number + 1}", REFEREES[0].role) for number in range(self.referees))


PRESETS = {"small": Config(parse_retries=1), "paper": Config(reply_tokens=512)}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → discuss, again while turns are left → score → verdict → submit → evaluate.

    Where turns are summed up, `summarize` follows every `discuss`; where only what is disputed is debated, `alone`
    comes first.
    """

    async def alone(state: State, runtime: Runtime[Context]) -> State:
        """Independent marks; what all referees agree on needs no debate."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: {config.referees} referees judge {len(pad.tasks)} pairs alone")
        found = {task.id: _alone(config, pad, task) for task in pad.tasks}
        await pad.each(speech for debates in found.values() for each in debates for speech in each.speeches(0))
        await pad.each(message for debates in found.values() for message in _read(config, debates))
        votes = {name: set(_votes(debates)) for name, debates in found.items()}
        return {"open": [name for name, given in votes.items() if len(given) > 1 or None in given]}

    async def discuss(state: State, runtime: Runtime[Context]) -> State:
        """One turn of all debates that are open."""
        context, pad, turn = runtime.context, Scratchpad(runtime.context, state), state["round"]
        context.say(f"generation {state['generation']}: turn {turn + 1} of the debates on {len(pad.open)} pairs")
        found = [debate for task in pad.open for debate in _debates(config, pad, task)]
        await pad.each(speech for debate in found for speech in debate.speeches(turn))
        return {} if config.mode == "summarized" else _next_turn(config, state)

    async def summarize(state: State, runtime: Runtime[Context]) -> State:
        """The turn in the words of somebody who takes no part."""
        pad = Scratchpad(runtime.context, state)
        found = [debate for task in pad.open for debate in _debates(config, pad, task)]
        await pad.each(debate.summary(state["round"]) for debate in found)
        return _next_turn(config, state)

    async def score(state: State, runtime: Runtime[Context]) -> State:
        """The last messages are read; who left out its marks is asked for them."""
        pad = Scratchpad(runtime.context, state)
        await pad.each(message for task in pad.tasks for message in _read(config, _settling(config, pad, task)))
        return {}

    async def verdict(state: State, runtime: Runtime[Context]) -> State:
        """All marks of both orders together."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: counting the marks of {len(pad.tasks)} pairs")
        for task in pad.tasks:
            pad.note(task, "verdict", _verdict(config, _settling(config, pad, task)))
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside one direct verdict."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        told = partial(_told, config, context, pad, state["generation"])
        return await answering.evaluate(state, runtime, reply_tokens=config.reply_tokens, later=told)

    loop: dict[str, Node] = {"discuss": discuss} | ({"summarize": summarize} if config.mode == "summarized" else {})
    return cycle(
        {},
        {
            "tasks": answering.tasks,
            **({"alone": alone} if config.only_disputed else {}),
            **loop,
            "score": score,
            "verdict": verdict,
            "submit": partial(answering.submit, answer=lambda pad, task: pad.said(task, "verdict") or ""),
            "evaluate": evaluate,
        },
        loops={[*loop][-1]: "discuss"},
    )


def _next_turn(config: Config, state: State) -> State:
    turn = state["round"] + 1
    return {"round": turn, "open": state["open"] if turn < config.turns else []}


def _debates(config: Config, pad: Scratchpad, task: Task) -> list[Debate]:
    """About one pair: as it stands, and with its answers in the other order."""
    return _in_both_orders(config, pad, task, "", (*[TURN] * (config.turns - 1), LAST_TURN), config.mode)


def _alone(config: Config, pad: Scratchpad, task: Task) -> list[Debate]:
    """Of one turn in which nobody hears anybody."""
    return _in_both_orders(config, pad, task, "alone ", (LAST_TURN,), "simultaneous")


def _in_both_orders(
    config: Config, pad: Scratchpad, task: Task, head: str, requests: tuple[str, ...], mode: Mode
) -> list[Debate]:
    pair = pair_of(task)
    shown = {"given": pair} | ({"swapped": swapped(pair)} if config.swap else {})
    return [
        Debate(
            pad,
            task,
            head + order,
            MATTER.format(question=each.question, first=each.answers[0], second=each.answers[1]),
            config.panel,
            requests,
            mode,
            config.temperature,
            config.reply_tokens,
        )
        for order, each in shown.items()
    ]


def _settling(config: Config, pad: Scratchpad, task: Task) -> list[Debate]:
    """Those whose last messages decide about the pair."""
    debates = _debates(config, pad, task)
    return debates if debates[0].begun else _alone(config, pad, task)


def _read(config: Config, debates: list[Debate]) -> Iterator[Awaitable[str]]:
    """Of every referee its last message; while that has no marks it is asked again."""

    async def message(debate: Debate, seat: int) -> str:
        while _marks(debate, seat) is None and len(debate.tries(debate.last, seat)) <= config.parse_retries:
            await debate.asked_again(debate.last, seat, ASKED_AGAIN)
        return debate.tries(debate.last, seat)[-1]

    return (message(debate, seat) for debate in debates for seat in range(len(debate.speakers)))


def _marks(debate: Debate, seat: int) -> Marks | None:
    """As it first gave them when it was to; those of an earlier turn are not looked at."""
    return next((marks for text in debate.tries(debate.last, seat) if (marks := marks_in(text)) is not None), None)


def _ballots(debates: list[Debate]) -> list[list[Marks] | None]:
    """Each referee's marks in all orders, A's first; None where they cannot be read in one of them."""
    ballots: list[list[Marks] | None] = []
    for seat in range(len(debates[0].speakers)):
        given, *others = (_marks(debate, seat) for debate in debates)
        marks = [given, *(each and (each[1], each[0]) for each in others)]
        ballots.append(None if None in marks else [each for each in marks if each is not None])
    return ballots


def _votes(debates: list[Debate]) -> list[Verdict | None]:
    """Each referee's own verdict."""
    return [None if ballot is None else by_total(ballot) for ballot in _ballots(debates)]


def _verdict(config: Config, debates: list[Debate]) -> Verdict | Literal[""]:
    ballots = [ballot for ballot in _ballots(debates) if ballot is not None]
    if not ballots:
        return ""
    if config.decide == "majority":
        return by_majority([by_total(ballot) for ballot in ballots])
    return by_total([marks for ballot in ballots for marks in ballot])


def _told(config: Config, context: Context, pad: Scratchpad, generation: int) -> dict[str, Any]:
    """For the generation's row: each pair's verdict before and after the debate, how well they agree with the truth,
    and what a pair took."""
    before, truths = handed_in(context, generation, "control")
    after, _ = handed_in(context, generation, "train")
    votes = {task.id: _votes(_settling(config, pad, task)) for task in pad.tasks}
    return {
        "verdicts": {
            name: {"before": before.get(name), "after": after.get(name), "referees": given}
            for name, given in votes.items()
        },
        "agreement": {"before": asdict(agreement(before, truths)), "after": asdict(agreement(after, truths))},
        "debated": sum(_debates(config, pad, task)[0].begun for task in pad.tasks),
        "calls_per_pair": pad.cost().calls / max(1, len(pad.tasks)),
        "unread": sum(vote is None for given in votes.values() for vote in given),
    }
