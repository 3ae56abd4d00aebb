"""CRITIC's signature, line by line, through whole runs with the real tools."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.problems import last_question, questions
from systems.runs import calls, generations, handed_in, play, prompt, visited

from evolvent.agents.errors import SetupError
from evolvent.agents.feedback import execution
from evolvent.agents.feedback.tool_check import value
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.critic import PRESETS
from evolvent.agents.run import RunConfig, result
from evolvent.environments.continuation import toxicity
from evolvent.environments.execution import Execution
from evolvent.environments.qa import search

RUDE, RUDER, MILD = "you are a foolish and lazy man", "you stupid idiot, you fool", "he is a bit silly today"
"""Toxicity 0.55, 0.97 and 0.15."""
ARITHMETIC = "```python\nanswer = {}\n```"


def config(environment: str, tasks: int = 1, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="critic", environment=environment, tasks=tasks, generations=1, settings=settings, embedder="hash"
    )


def purpose(messages: Any) -> str:
    """Of a call, by how its prompt ends."""
    last = str(messages[-1].text)
    if "better program" in last or "another continuation" in last or "most probable answer now" in last:
        return "revise"
    return "solve" if len([message for message in messages if message.type == "ai"]) == 0 else "critique"


def scripted(solve: str, revise: Callable[[int], str], critique: Callable[[int], str] = "Words {}.".format) -> Any:
    """Of one task: its first answer, its k-th revision and its k-th words on an answer."""
    asked = {"revise": 0, "critique": 0}

    def reply(messages: Any) -> str:
        kind = purpose(messages)
        if kind == "solve":
            return solve
        asked[kind] += 1
        return (revise if kind == "revise" else critique)(asked[kind] - 1)

    return ScriptedChatModel(reply)


@pytest.mark.signature("critic", 0)
@pytest.mark.parametrize(
    ("program", "report"),
    [
        ("answer = 2 ** 5 + 1", "answer = 33"),
        ("def solution():\n    return 7 / 2", "answer = 3.5"),
        ("answer = 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_program_s_critique_is_asked_for_with_its_true_report_and_value(
    tmp_path: Path, program: str, report: str
) -> None:
    actor = scripted(f"```python\n{program}\n```", lambda _: "")
    run = play(tmp_path / "run", config("word_problems", max_corrections_math=1), {"actor": actor})
    (asked,) = [prompt(row) for row in calls(run, purpose="critique")]
    assert program in asked
    assert report in asked.rpartition(program)[2]
    alone = play(tmp_path / "alone", config("word_problems", max_corrections_math=1, tool=False), {"actor": actor})
    (asked,) = [prompt(row) for row in calls(alone, purpose="critique")]
    assert report not in asked


@pytest.mark.signature("critic", 0)
def test_another_result_of_the_interpreter_changes_the_prompt_of_the_critique(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for number in (41, 42):

        class Interpreter:
            def __init__(self, limits: object) -> None: ...
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *error: object) -> None: ...
            def run(self, program: str, tests: object) -> Execution:
                return Execution("passed", stdout=f"{number}\n")  # noqa: B023 (used within this turn)

        monkeypatch.setattr(execution, "Sandbox", Interpreter)
        actor = scripted("answer = 1", lambda _: "")
        run = play(tmp_path / str(number), config("word_problems", max_corrections_math=1), {"actor": actor})
        said += [prompt(row) for row in calls(run, purpose="critique")]
    assert [f"answer = {number}" in text for number, text in zip((41, 42), said, strict=True)] == [True, True]
    assert said[0] == said[1].replace("42", "41")


@pytest.mark.signature("critic", 1)
def test_what_is_found_stands_before_the_revised_answer(tmp_path: Path) -> None:
    asked = config("qa", max_corrections_qa=1)
    (task,) = questions(asked)
    first, second = search(task, task.prompt, 2)
    query = f"I doubt it.\nSearch: {task.prompt}\nEvidence: it is all made up."
    actor = scripted("The answer is Nobody.", lambda _: "The answer is Somebody.", [query, query, "Hm."].__getitem__)
    run = play(tmp_path / "run", asked, {"actor": actor})
    (revision,) = [prompt(row) for row in calls(run, purpose="revise")]
    told = [f"[{each.title}] {each.text[:400]}" for each in (first, second)]
    assert revision.count(told[0]) == revision.count(told[1]) == 1, "a repeated query moves on to the next passage"
    assert revision.index(told[0]) < revision.index(told[1])
    assert "made up" not in revision, "evidence that the model invents behind its query"
    assert visited(run)[:10] == ["tasks", "solve", *["tool", "critique"] * 3, "revise", "tool"]
    assert handed_in(run) == ["The answer is Somebody."]


@pytest.mark.signature("critic", 1)
def test_without_the_tool_the_model_is_to_write_the_evidence_and_nothing_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise AssertionError("a tool call")

    monkeypatch.setattr("evolvent.agents.feedback.tool_check.qa.search", refused)
    words = "Search: the town\nEvidence: he was born by the sea."
    actor = scripted("The answer is Nobody.", lambda _: "The answer is Somebody.", lambda _: words)
    run = play(tmp_path / "run", config("qa", max_corrections_qa=1, tool=False), {"actor": actor})
    assert [row["purpose"] for row in calls(run)] == ["solve", "critique", "revise"]
    assert 'in lines "Evidence: ..."' in prompt(calls(run, purpose="critique")[0])
    assert words in prompt(calls(run, purpose="revise")[0])


@pytest.mark.signature("critic", 2)
@pytest.mark.parametrize(
    ("environment", "answer", "most"),
    [("qa", "The answer is {}.", "max_corrections_qa"), ("word_problems", ARITHMETIC, "max_corrections_math")],
)
def test_two_unchanged_rounds_end_the_work_and_one_that_changes_runs_to_the_maximum(
    tmp_path: Path, environment: str, answer: str, most: str
) -> None:
    def revisions(values: list[int]) -> int:
        actor = scripted(answer.format(1), lambda number: answer.format(values[number]))
        name = "-".join(map(str, values))
        run = play(tmp_path / name, config(environment, **{most: 5}), {"actor": actor})
        return len(calls(run, purpose="revise"))

    assert revisions([1, 1]) == 2, "three equal answers"
    assert revisions([1, 2, 2, 2]) == 4, "what was before counts no more"
    assert revisions([2, 3, 4, 5, 6]) == 5
    assert revisions([2, 2, 1, 1, 2]) == 5, "two equal ones are too few"


@pytest.mark.signature("critic", 3)
def test_a_more_toxic_continuation_is_discarded_and_the_one_before_it_is_carried_on(tmp_path: Path) -> None:
    actor = scripted(RUDE, [RUDER, MILD, RUDE, "all was well in the end"].__getitem__)
    run = play(tmp_path / "run", config("continuation", max_corrections_toxicity=4), {"actor": actor})
    shown = [row["messages"][-2]["content"] for row in calls(run, purpose="revise")]
    assert shown == [RUDE, RUDE, MILD, MILD]
    reports = [row["messages"][-1]["content"] for row in calls(run, purpose="revise")]
    assert all(f"{toxicity(text).overall:.0%} toxic" in report for text, report in zip(shown, reports, strict=True))
    assert all("insult" in report for report in reports), "the worst attribute"
    assert handed_in(run) == ["all was well in the end"]
    assert not calls(run, purpose="critique"), "the scorer says it all"


@pytest.mark.signature("critic", 4)
@pytest.mark.parametrize(
    ("environment", "first", "revised", "kept"),
    [
        ("word_problems", ARITHMETIC.format(7), "", "The answer is 7."),
        ("word_problems", ARITHMETIC.format(7), "I cannot say.", "The answer is 7."),
        ("word_problems", ARITHMETIC.format(7), "answer = 'seven'", "The answer is 7."),
        ("qa", "The answer is Orlo.", "", "The answer is Orlo."),
        ("continuation", RUDE, "", RUDE),
        ("continuation", RUDE, "Well.", RUDE),
    ],
)
def test_a_revision_that_is_empty_or_cannot_be_read_replaces_nothing(
    tmp_path: Path, environment: str, first: str, revised: str, kept: str
) -> None:
    run = play(tmp_path / "run", config(environment), {"actor": scripted(first, lambda _: revised)})
    assert handed_in(run) == [kept]
    assert all(first in prompt(row) for row in calls(run, purpose="revise"))


@pytest.mark.signature("critic", 5)
def test_the_same_is_asked_whether_answers_are_right_or_wrong(tmp_path: Path) -> None:
    """The environment's verdict and its answer appear nowhere before the answers are handed in."""
    (task,) = questions(config("qa"))
    gold = task.data["answers"][0]
    asked = []
    for name in ("Nobody", gold):
        actor = scripted("The answer is Somebody.", lambda _: f"The answer is {name}.", "Search: mills {}".format)  # noqa: B023 (used within this turn)
        run = play(tmp_path / name, config("qa"), {"actor": actor})
        asked.append([prompt(row).replace(f"The answer is {name}.", "…") for row in calls(run)])
    assert asked[0] == asked[1]
    assert not any(f"{gold} is right" in text for text in asked[1])


def test_a_search_that_never_ends_is_cut_off_and_the_question_answered(tmp_path: Path) -> None:
    actor = scripted("The answer is 1.", lambda _: "The answer is 2.", "Search: river {}".format)
    run = play(tmp_path / "run", config("qa", max_corrections_qa=1, max_tool_interactions=3), {"actor": actor})
    assert [row["purpose"] for row in calls(run)] == ["solve", *["critique"] * 4, "revise"]
    assert prompt(calls(run, purpose="revise")[0]).count("Evidence: [") == 4, "one of them in the demonstration"


def test_a_continuation_that_is_mild_enough_is_left_alone(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config("continuation"), {"actor": scripted("and they all had tea", lambda _: RUDE)})
    assert [row["purpose"] for row in calls(run)] == ["solve"]


def test_a_row_has_both_answers_scores_and_the_rounds_of_each_task(tmp_path: Path) -> None:
    asked = config("word_problems", max_corrections_math=3)
    (task,) = questions(asked)
    right = ARITHMETIC.format(task.data["answer"])
    run = play(tmp_path / "run", asked, {"actor": scripted(ARITHMETIC.format(-1), lambda _: right)})
    (row,) = generations(run)
    assert (row["frozen_scores"], row["scores"], row["revisions"]) == (
        {task.id: [0.0]},
        {task.id: [1.0]},
        {task.id: 3},
    )


def test_a_world_without_a_tool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"critic has no tool .* It checks those to: word_problems, qa"):
        play(tmp_path / "run", config("systems.letters:Letters"), {"actor": scripted("", lambda _: "")})


@pytest.mark.parametrize(
    ("printed", "number"), [("7\n", "7"), ("x\n3.50\n\n", "3.5"), ("seven", ""), ("", ""), ("nan", ""), ("1e400", "")]
)
def test_a_program_s_value_is_the_number_it_prints_last(printed: str, number: str) -> None:
    assert value(Execution("passed", stdout=printed)) == number
    assert value(Execution("exception", stdout=printed)) == ""


def test_paper_preset_has_the_paper_s_rounds() -> None:
    paper = PRESETS["paper"]
    assert (paper.max_corrections_qa, paper.max_corrections_math, paper.max_tool_interactions) == (3, 4, 7)


# -- what it is worth --------------------------------------------------------------------------------------------------


def programmer(seed: int) -> ScriptedChatModel:
    """Half of its programs are wrong, and half of the wrong ones break when they are run.

    Told of an error it mends it four times of five. Told of a value alone, or of nothing, it cannot tell right from
    wrong: it rewrites three programs of ten, and the new one is no better than a first one.
    """
    dealt = questions(config("word_problems", 60))

    def reply(messages: list[BaseMessage]) -> str:
        rng = random.Random(f"{seed}/{[str(message.text) for message in messages]}")
        right, kind = last_question([messages[1]], dealt).data["answer"], purpose(messages)
        if kind == "critique":
            return "It breaks." if "Error" in str(messages[-1].text) else "I am not sure."
        if kind == "revise":
            program, criticism = (str(message.text) for message in messages if message.type == "ai")
            if criticism == "It breaks.":
                return ARITHMETIC.format(right if rng.random() < 0.8 else right + 1)
            if rng.random() < 0.7:
                return program
        drawn = rng.random()
        return ARITHMETIC.format(right if drawn < 0.5 else right + 1 if drawn < 0.75 else f"{right} + missing")

    return ScriptedChatModel(reply)


def reader(seed: int) -> ScriptedChatModel:
    """Guesses one answer of five right, and reads nine of ten out of a passage that holds them.

    Without one it keeps to what it said, or in three cases of ten guesses again.
    """
    dealt = questions(config("qa", 60))

    def reply(messages: list[BaseMessage]) -> str:
        rng = random.Random(f"{seed}/{[str(message.text) for message in messages]}")
        task, kind = last_question([messages[1]], dealt), purpose(messages)
        (right, *_), seen = task.data["answers"], "\n".join(str(message.text) for message in messages[2:])
        if kind == "critique":
            return f"I doubt it.\nSearch: {task.prompt}" if messages[-2].text == messages[2].text else "I see."
        said = [str(message.text) for message in messages if message.type == "ai" and "answer is" in message.text]
        if kind == "revise" and right in "".join(seen.split("Evidence: [")[1:]) and rng.random() < 0.9:
            return f"The answer is {right}."
        return said[-1] if said and rng.random() < 0.7 else f"The answer is {right if rng.random() < 0.2 else 'Nil'}."

    return ScriptedChatModel(reply)


@pytest.mark.parametrize(("environment", "actor"), [("word_problems", programmer), ("qa", reader)])
def test_the_tool_lifts_an_answerer_and_criticism_without_it_does_not(
    tmp_path: Path, environment: str, actor: Callable[[int], ScriptedChatModel]
) -> None:
    """The card's direction on 60 tasks: CRITIC above critique without a tool, and that not above the first answers."""
    told = {
        tool: result(play(tmp_path / str(tool), config(environment, 60, tool=tool), {"actor": actor(2)}))
        for tool in (True, False)
    }
    with_tool, without = (told[tool]["generations"][-1]["held_out"]["success"] for tool in (True, False))
    assert (told[True]["verdict"], told[False]["verdict"] == "improved") == ("improved", False)
    assert with_tool > without + 0.1
    (row,) = generations(tmp_path / "False")
    fallen = [task for task, (score,) in row["scores"].items() if score < row["frozen_scores"][task][0]]
    assert fallen, "without the tool right answers are spoiled"
