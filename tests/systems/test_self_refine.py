"""Self-Refine's signature, line by line, through whole runs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.problems import last_question, questions
from systems.runs import calls, generations, handed_in, play, prompt, visited
from systems.sentences import sentence, words_in

from evolvent.agents.feedback.critique import REQUEST, satisfied, total
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.self_refine import ENVIRONMENTS, GENERIC, PRESETS, REFINE
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, result

SENTENCES = "systems.sentences:Sentences"
FINE = "Nothing is amiss: it is correct."


def config(tasks: int = 2, environment: str = "word_problems", **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="self-refine",
        environment=environment,
        tasks=tasks,
        generations=1,
        settings={"shots": 0, **settings},
        embedder="hash",
    )


def purpose(messages: Any) -> str:
    """Of a call, by how its prompt ends."""
    last = str(messages[-1].text)
    if REQUEST in last:
        return "feedback"
    return "refine" if REFINE.partition(" to the task")[0] in last else "generate"


def writer(
    *, drafts: Callable[[int], str] = "Draft {}.".format, says: Callable[[int], str] = "Fault {}.".format
) -> ScriptedChatModel:
    """Of one task: its k-th draft and its k-th criticism."""
    asked = {"drafts": 0, "criticisms": 0}

    def reply(messages: Any) -> str:
        kind, script = ("criticisms", says) if purpose(messages) == "feedback" else ("drafts", drafts)
        asked[kind] += 1
        return script(asked[kind] - 1)

    return ScriptedChatModel(reply)


@pytest.mark.signature("self-refine", 0)
def test_calls_alternate_and_none_is_made_beyond_the_last_draft(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=3, max_iterations=4), {"actor": ScriptedChatModel(lambda _: "A fault.")})
    for task in questions(config(tasks=3)):
        made = [row["purpose"] for row in calls(run, task=task.id)]
        assert made == ["generate", *["feedback", "refine"] * 3]
    assert visited(run) == ["tasks", "generate", *["feedback", "refine"] * 4, "submit", "evaluate"]


@pytest.mark.signature("self-refine", 1)
def test_a_better_draft_is_asked_for_with_every_draft_and_criticism_in_order(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=1, max_iterations=4), {"actor": writer()})
    for number, call in enumerate(calls(run, purpose="refine")):
        turns = [message["content"] for message in call["messages"] if message["role"] != "system"]
        told = [("Draft" if index % 2 else "Fault", index // 2 - (not index % 2)) for index in range(1, len(turns))]
        expected = [f"{kind} {at}." for kind, at in told]
        assert len(expected) == 2 * (number + 1)
        assert all(each in turn for each, turn in zip(expected, turns[1:], strict=True))


@pytest.mark.signature("self-refine", 2)
def test_a_draft_that_satisfies_its_first_criticism_is_handed_in_as_it_is(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=1), {"actor": writer(says=lambda _: FINE)})
    assert [row["purpose"] for row in calls(run)] == ["generate", "feedback"]
    assert handed_in(run) == ["Draft 0."]


@pytest.mark.signature("self-refine", 3)
@pytest.mark.parametrize("arm", ["specific", "generic", "none"])
def test_each_arm_of_the_feedback_asks_for_the_better_draft_in_other_words(tmp_path: Path, arm: str) -> None:
    run = play(tmp_path / "run", config(tasks=1, max_iterations=2, feedback=arm), {"actor": writer()})
    assert [row["purpose"] for row in calls(run)] == [
        "generate",
        *(["feedback"] if arm == "specific" else []),
        "refine",
    ]
    (asked,) = [row["messages"][-1]["content"] for row in calls(run, purpose="refine")]
    assert [("Fault 0." in asked), (GENERIC in asked), ("Feedback:" not in asked)] == [
        arm == each for each in ("specific", "generic", "none")
    ]


@pytest.mark.signature("self-refine", 4)
def test_one_model_plays_every_part_and_no_truth_is_consulted(tmp_path: Path) -> None:
    """Right and wrong drafts are asked about in the same words."""
    tasks = questions(config())

    def writing(offset: int) -> ScriptedChatModel:
        def reply(messages: list[BaseMessage]) -> str:
            answer = last_question([messages[1]], tasks).data["answer"] + offset
            return "A fault." if purpose(messages) == "feedback" else f"The answer is {answer}."

        return ScriptedChatModel(reply)

    asked = []
    for offset in (0, 1):
        actor = writing(offset)
        run = play(tmp_path / str(offset), config(max_iterations=3), {"actor": actor})
        assert {row["role"] for row in calls(run)} == {"actor"}
        assert len(actor.requests) == len(calls(run)) == 2 * 5
        asked.append(sorted(re.sub(r"The answer is \d+\.", "…", prompt(row)) for row in calls(run)))
        assert {score for (score,) in generations(run)[0]["scores"].values()} == {1.0 - offset}
    assert asked[0] == asked[1]


@pytest.mark.signature("self-refine", 5)
def test_with_marks_the_best_draft_is_handed_in_and_not_the_last(tmp_path: Path) -> None:
    marks = ("clear: 2/5\nshort: 3/5", "clear: 5/5\nshort: 4/5", "clear: 1/5\nshort: 1/5")
    actor = writer(says=lambda number: f"A fault.\n{marks[number]}\ntotal: 10/10")
    run = play(tmp_path / "run", config(tasks=1, max_iterations=3, aspects=["clear", "short"]), {"actor": actor})
    assert handed_in(run) == ["Draft 1."]
    assert list(generations(run)[0]["totals"].values()) == [[5, 9, 2]]
    assert "total" not in prompt(calls(run, purpose="feedback")[0])


def test_marks_that_cannot_be_read_are_asked_for_again_and_lose_no_task(tmp_path: Path) -> None:
    settings = {"max_iterations": 2, "aspects": ["clear"], "parse_retries": 2}
    said = ("Hm.", "clear: 4/5", "Hm.", "Hm.")
    run = play(tmp_path / "run", config(tasks=1, **settings), {"actor": writer(says=lambda number: said[number])})
    assert len(calls(run, purpose="feedback")) == 4
    assert handed_in(run) == ["Draft 0."]
    mute = play(tmp_path / "mute", config(tasks=1, **settings), {"actor": writer(says=lambda _: "Hm.")})
    assert handed_in(mute) == ["Draft 1."], "the last one where nothing has marks"


def test_an_empty_draft_replaces_none(tmp_path: Path) -> None:
    actor = writer(drafts=lambda number: "" if number else "Draft 0.")
    run = play(tmp_path / "run", config(tasks=1, max_iterations=3), {"actor": actor})
    assert handed_in(run) == ["Draft 0."]
    assert all("Draft 0." in prompt(row) for row in calls(run, purpose="feedback"))


def test_a_run_that_was_killed_between_two_drafts_asks_nothing_again(tmp_path: Path) -> None:
    run, answered = tmp_path / "run", []

    def reply(messages: Any) -> str:
        if len(answered) == 7:  # of two tasks: two drafts each, a third of one of them, and all criticisms before
            raise KeyboardInterrupt
        answered.append(purpose(messages))
        return "A fault."

    one_at_a_time = config(max_iterations=3).model_copy(update={"concurrency": 1})
    create(one_at_a_time, run)
    with pytest.raises(KeyboardInterrupt):
        run_sync(execute(run, models={"actor": ScriptedChatModel(reply)}))
    again = ScriptedChatModel(lambda _: "A fault.")
    run_sync(execute(run, models={"actor": again}))  # the killed call stands in the trace with its error
    assert len(again.requests) == 2 * 5 - 7


# -- what it is worth --------------------------------------------------------------------------------------------------


def careless(seed: int) -> ScriptedChatModel:
    """Writes sentences that hold 60 % of the words, and mends what feedback names, four words of five.

    Of a rewriting that is told nothing, a missing word comes by itself with 15 % and a present one goes with 10 %.
    Its criticism overlooks a missing word with 20 %.
    """

    def reply(messages: list[BaseMessage]) -> str:
        rng = random.Random(f"{seed}/{[str(message.text) for message in messages]}")
        wanted = words_in(str(messages[1].text).rpartition("One sentence with the words")[2])
        drafts = [str(message.text) for message in messages if message.type == "ai"]
        have = set(words_in(drafts[-1])) if drafts else set()
        last, kind = str(messages[-1].text), purpose(messages)
        if kind == "generate":
            return sentence([word for word in wanted if rng.random() < 0.6])
        if kind == "feedback":
            found = [word for word in wanted if word not in have and rng.random() < 0.8]
            return f"The sentence lacks: {', '.join(found)}. Put them in." if found else FINE
        named = words_in(last.partition("Write a better")[0])
        chance = {word: 0.8 if word in named else 0.9 if word in have else 0.15 for word in wanted}
        return sentence([word for word in wanted if rng.random() < chance[word]])

    return ScriptedChatModel(reply)


def test_specific_criticism_lifts_a_careless_writer_more_than_generic_or_none(tmp_path: Path) -> None:
    """The card's direction on 40 sentences: specific above the first drafts, and above generic feedback."""
    coverage = {}
    for arm in ("specific", "generic", "none"):
        arms = config(tasks=40, environment=SENTENCES, feedback=arm)
        run = play(tmp_path / arm, arms, {"actor": careless(seed=1)})
        (row,) = generations(run)
        coverage[arm] = fmean(score for (score,) in row["scores"].values())
        coverage["first"] = fmean(score for (score,) in row["frozen_scores"].values())
        if arm == "specific":
            assert result(run)["verdict"] == "improved"
    assert coverage["specific"] > coverage["first"] + 0.15
    assert coverage["specific"] > max(coverage["generic"], coverage["none"]) + 0.1


def test_criticism_that_knows_no_better_gains_nothing_in_arithmetic(tmp_path: Path) -> None:
    """The negative control: right half of the time, and as unsure of right answers as of wrong ones."""
    tasks = questions(config(tasks=40))

    def reply(messages: list[BaseMessage]) -> str:
        rng = random.Random(f"5/{[str(message.text) for message in messages]}")
        if purpose(messages) == "feedback":
            return rng.choice((FINE, "The sum in the last step looks wrong."))
        answer = last_question([messages[1]], tasks).data["answer"]
        return f"The answer is {answer + (rng.random() < 0.5)}."

    run = play(tmp_path / "run", config(tasks=40), {"actor": ScriptedChatModel(reply)})
    assert result(run)["verdict"] != "improved"
    (row,) = generations(run)
    changes = [row["scores"][task][0] - row["frozen_scores"][task][0] for task in row["scores"]]
    assert 1.0 in changes
    assert -1.0 in changes, "right answers were spoiled as well"


@pytest.mark.parametrize(
    ("text", "stop", "done"),
    [
        ("I looked twice. It is correct!", "phrase", True),
        ("It is not correct.", "phrase", False),
        ("it is correct", "never", False),
        ("Missing: none\nWrong: None.", "none", True),
        ("- **Missing:** none\n- **Wrong:** the verb", "none", False),
        ("none", "none", False),
    ],
)
def test_what_ends_the_work_is_read_leniently_and_never_from_half_a_verdict(text: str, stop: Any, done: bool) -> None:
    assert satisfied(text, stop) is done


def test_a_total_is_the_sum_of_all_marks_or_nothing() -> None:
    assert total("**clear**: 3/5 as it is\nShort : 4.5 / 5", ("clear", "short")) == 7.5
    assert total("clear: 9/5", ("clear",)) == 5
    assert total("clear: 3/5", ("clear", "short")) is None
    assert total("unclear: 3/5", ("clear",)) is None


@pytest.mark.parametrize("stop", ["phrase", "none", "never"])
def test_a_critic_is_shown_how_the_work_is_ended_and_only_where_it_can_be(tmp_path: Path, stop: str) -> None:
    run = play(tmp_path / "run", config(tasks=1, max_iterations=2, stop=stop), {"actor": writer()})
    asked = prompt(calls(run, purpose="feedback")[0])
    assert ["it is correct" in asked, "Missing: none" in asked] == [stop == "phrase", stop == "none"]


def test_paper_preset_has_the_paper_s_four_drafts() -> None:
    assert PRESETS["paper"].max_iterations == 4
    assert PRESETS["paper"].temperature == 0.7
    assert ENVIRONMENTS[0] == "word_problems"
