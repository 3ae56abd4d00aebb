"""A model asked what shall become of its memory: it chooses among possible lines, or writes some and is asked again."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from evolvent.agents.errors import ModelCallError
from evolvent.agents.models.role import Limits, RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer
from evolvent.agents.refinement.memory_operations import Advice, ask_operations, possible_lines
from evolvent.agents.trace import Trace
from evolvent.agents.types import CallTag
from evolvent.memory.fold import apply
from evolvent.memory.operations import VERBS, Operation, to_events
from evolvent.memory.types import Record, Scope, new_record

TAG = CallTag("reflector", "train", 1, "task-1", purpose="memory")
RUST = "To mend rust, use the {action}."
HERE = Scope("workshop", ("rust",))
OIL, AGAIN, NOTE = SHOWN = (
    new_record("rule", "To mend rust, use the oil.", HERE, meta={"situation": RUST}),
    new_record("rule", "use oil to mend rust", HERE),
    new_record("rule", "Wait until it\nis dry.", HERE),
)
EVIDENCE = "The oil did not work on rust."


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Trace]:
    trace = Trace(tmp_path / "trace.jsonl")
    yield trace
    trace.close()


Ask = Callable[..., Awaitable[Advice]]


@pytest.fixture
def asked(trace: Trace) -> Ask:
    async def ask(model: ScriptedChatModel, evidence: str = EVIDENCE, **how: Any) -> Advice:
        role = RoleModel("m", model, trace, Limits(attempts=1, backoff_s=0.0))
        return await ask_operations(role, SHOWN, evidence, TAG, random.Random(0), **how)

    return ask


async def test_a_model_is_shown_a_numbered_list_one_line_a_record_and_the_forms_it_may_use(asked: Ask) -> None:
    model = ScriptedChatModel(["RETIRE 1: it failed\nKEEP 3"])
    advice = await asked(model, verbs=("retire", "keep"))
    assert advice.operations == (Operation("retire", (OIL.id,), "it failed"), Operation("keep", (NOTE.id,)))
    assert (advice.repaired, advice.retried, advice.rejected, advice.cost.calls) == (0, 0, (), 1)
    prompt = model.requests[0][-1].text
    assert "1. To mend rust, use the oil.\n2. use oil to mend rust\n3. Wait until it is dry.\n" in prompt
    assert EVIDENCE in prompt
    assert "RETIRE 1: why it is wrong\nKEEP 1" in prompt
    assert "ADD" not in prompt


async def test_lines_that_cannot_be_read_are_quoted_back_once(asked: Ask) -> None:
    model = ScriptedChatModel(["- retire 1: it failed\nRETIRE 7: wrong\nI would keep the rest.", "KEEP 3\nKEEP 2"])
    advice = await asked(model)
    assert advice.operations == (
        Operation("retire", (OIL.id,), "it failed"),
        Operation("keep", (NOTE.id,)),
        Operation("keep", (AGAIN.id,)),
    )
    assert (advice.repaired, advice.retried, advice.rejected, advice.cost.calls) == (1, 2, (), 2)
    roles = [message.type for message in model.requests[1]]
    assert roles == ["system", "human", "ai", "human"]
    quoted = model.requests[1][-1].text
    assert "RETIRE 7: wrong\n(no record '7' was shown; expected a number from 1 to 3)" in quoted
    assert "I would keep the rest." in quoted
    assert "it failed" not in quoted


async def test_what_stays_unreadable_is_counted_with_its_reason(asked: Ask) -> None:
    advice = await asked(ScriptedChatModel(["Oil is bad.", "Really bad.\nNOTHING"]))
    assert advice.operations == (Operation("nothing"),)
    assert (advice.retried, [each.line for each in advice.rejected]) == (1, ["Really bad."])


async def test_a_reply_that_ran_away_is_quoted_in_part_and_counted_whole(asked: Ask) -> None:
    model = ScriptedChatModel(["\n".join(f"Oil is bad, {'very ' * 40}{number}." for number in range(20)), "KEEP 1"])
    advice = await asked(model)
    assert advice.operations == (Operation("keep", (OIL.id,)),)
    assert (advice.retried, len(advice.rejected)) == (8, 12)
    assert model.requests[1][-1].text.count("Oil is bad") == 8


async def test_a_second_call_that_fails_loses_only_the_lines_it_was_about(asked: Ask, trace: Trace) -> None:
    replies = iter(["KEEP 1\nOil is bad."])

    def reply(messages: Sequence[BaseMessage]) -> str:
        said = next(replies, None)
        if said is None:
            raise RuntimeError("gone")
        return said

    advice = await asked(ScriptedChatModel(reply))
    assert advice.operations == (Operation("keep", (OIL.id,)),)
    assert (advice.retried, [each.line for each in advice.rejected]) == (1, ["Oil is bad."])
    assert trace.failed_calls == 1
    with pytest.raises(ModelCallError):
        await asked(ScriptedChatModel(reply))


def test_the_possible_lines_are_each_operation_with_each_record_it_fits() -> None:
    statements = ["To mend rust, use the glue.", OIL.text]
    assert list(possible_lines(SHOWN, statements, VERBS)) == [
        "NOTHING",
        "ADD rule: To mend rust, use the glue.",
        "UPDATE 1: To mend rust, use the glue.",
        "RETIRE 1: the evidence is against it",
        "UPDATE 2: To mend rust, use the glue.",
        "RETIRE 2: the evidence is against it",
        "UPDATE 3: To mend rust, use the glue.",
        "RETIRE 3: the evidence is against it",
        "MERGE 1, 2",
    ]
    assert list(possible_lines(SHOWN, ["Glue it."], ("update",))) == [
        "NOTHING",
        "UPDATE 2: Glue it.",
        "UPDATE 3: Glue it.",
    ]
    assert list(possible_lines([], [], VERBS)) == ["NOTHING"]


@pytest.mark.parametrize("wanted", list(possible_lines(SHOWN, ["To mend rust, use the glue."], VERBS)))
async def test_a_model_that_can_choose_gets_only_lines_that_can_be_done(asked: Ask, wanted: str) -> None:
    def score(messages: Sequence[BaseMessage], options: Sequence[str]) -> list[float]:
        informed = EVIDENCE in messages[-1].text
        return [-1.0 if informed and option == wanted else -9.0 for option in options]

    model = ScriptedScorer([], score=score)
    advice = await asked(model, statements=["To mend rust, use the glue."])
    assert (advice.repaired, advice.retried, advice.rejected, len(advice.operations)) == (0, 0, (), 1)
    known: dict[str, Record] = {record.id: record for record in SHOWN}
    applied = to_events(advice.operations, known, scope=HERE)
    assert applied.rejected == ()
    apply(known, applied.events, 1)
    assert len(model.requests) == 2  # with the evidence, and without it


async def test_without_evidence_a_choice_is_not_calibrated(asked: Ask) -> None:
    model = ScriptedScorer([], score=lambda messages, options: [-float(len(option)) for option in options])
    advice = await asked(model, "")
    assert advice.operations == (Operation("nothing"),)
    assert len(model.requests) == 1
