"""Self-verification's signature, line by line, through whole runs."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from systems.problems import last_question, questions
from systems.runs import calls, generations, handed_in, memory_of, play, visited

from evolvent.agents.feedback import backward
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.self_verification import PRESETS
from evolvent.agents.run import RunConfig, result
from evolvent.environments.types import Task

REQUEST = "What number is X?"


def config(tasks: int = 1, generations: int = 1, steps: int = 2, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="self-verification",
        environment="word_problems",
        options={"steps": steps},
        tasks=tasks,
        generations=generations,
        settings=settings,
        embedder="hash",
    )


def path(answer: object) -> str:
    return f"Well.\nThe answer is {answer}."


def hidden_in(text: str, task: Task) -> str:
    """What X stands for, by the words of the problem itself."""
    pairs = zip(task.prompt.split(), text.split(), strict=False)
    return next(word for word, shown in pairs if word != shown).strip(".,")


def actor(
    tasks: list[Task],
    forward: Callable[[Task], object],
    recovers: Callable[[Task, str], bool],
    stated: Callable[[str], str] = lambda answer: f"It comes to {answer} altogether.",
) -> ScriptedChatModel:
    """Solves by `forward`, rewrites by `stated`, and recovers what is hidden where `recovers(task, answer)` says so."""

    def reply(messages: Any) -> str:
        asked = str(messages[-1].text)
        if asked.startswith("Question:"):
            return stated(asked.rpartition("Answer: ")[2])
        if asked.endswith(REQUEST):
            answer = re.search(r"It comes to (\S+) altogether", asked)[1]
            task = next(each for each in tasks if alike(each, asked))
            return path(hidden_in(asked, task) if recovers(task, answer) else 999)
        if asked.endswith("yes or no?"):
            return "Yes."
        return path(forward(last_question(messages, tasks)))

    return ScriptedChatModel(reply)


def last(row: dict[str, Any]) -> str:
    return str(row["messages"][-1]["content"])


def conditions(task: Task) -> str:
    return re.match(r"(.*[.!?])\s", task.prompt)[1]


def alike(task: Task, asked: str) -> bool:
    """Whether the words are those of the task's conditions, but one."""
    words = conditions(task).split()
    return sum(one != other for one, other in zip(words, asked.split(), strict=False)) == 1


def cycling(*answers: object) -> Callable[[Task], object]:
    """The k-th sample of a task is the k-th of these; behind the last the first comes again."""
    asked: Counter[str] = Counter()

    def forward(task: Task) -> object:
        asked[task.id] += 1
        return answers[(asked[task.id] - 1) % len(answers)]

    return forward


def shares(rates: dict[str, int]) -> Callable[[Task, str], bool]:
    """Of every ten backward replies about an answer, so many recover."""
    asked: Counter[str] = Counter()

    def recovers(task: Task, answer: str) -> bool:
        asked[answer] += 1
        return (asked[answer] - 1) % 10 < rates[answer]

    return recovers


def backwards(run: Path, task: Task) -> list[dict[str, Any]]:
    return [row for row in calls(run, phase="train", task=task.id) if row["purpose"].startswith("verify")]


@pytest.mark.signature("self-verification", 0)
def test_the_answer_whose_conditions_are_recovered_wins_over_the_more_frequent_one(tmp_path: Path) -> None:
    setup = config(candidates=5, checks=10, masks=1)
    model = actor(questions(setup), cycling(70, 70, 80, 70, 70), shares({"70": 2, "80": 9}))
    run = play(tmp_path / "run", setup, {"actor": model})
    (selection,) = generations(run)[0]["selections"].values()
    assert selection == {"answers": ["70", "80"], "samples": [4, 1], "scores": [0.2, 0.9], "chosen": "80"}
    assert handed_in(run) == [path(80)]


@pytest.mark.signature("self-verification", 1)
def test_where_all_samples_agree_nothing_is_asked_backwards(tmp_path: Path) -> None:
    setup = config(tasks=2, candidates=4)
    run = play(tmp_path / "run", setup, {"actor": actor(questions(setup), lambda task: "7.0", shares({}))})
    assert {row["purpose"] for row in calls(run, phase="train")} == {"path"}
    assert handed_in(run) == [path("7.0")] * 2


@pytest.mark.signature("self-verification", 2)
def test_a_backward_prompt_states_the_answer_hides_one_number_and_does_not_ask_the_question(tmp_path: Path) -> None:
    setup = config(tasks=4, candidates=2, checks=1, masks=3)
    tasks = questions(setup)
    run = play(tmp_path / "run", setup, {"actor": actor(tasks, cycling(70, 80), lambda *_: True)})
    for task in tasks:
        question = task.prompt.removeprefix(conditions(task)).strip()
        for row in backwards(run, task):
            asked = last(row).removesuffix(REQUEST).strip()
            answer = ("70", "80")[int(row["purpose"].split()[1][0])]
            text = asked.removesuffix(f"It comes to {answer} altogether.").strip()
            assert text != asked, "the conclusion stands at the end"
            assert question not in last(row)
            pairs = zip(conditions(task).split(), text.split(), strict=True)
            ((before, after),) = [pair for pair in pairs if pair[0] != pair[1]]
            assert before.strip(".,").isdigit()
            assert after.strip(".,") == "X"


@pytest.mark.parametrize(
    ("mode", "steps", "numbers", "asked"), [("mask", 1, 2, 2), ("mask", 3, 4, 3), ("true_false", 3, 4, 1)]
)
@pytest.mark.signature("self-verification", 3)
def test_each_answer_is_asked_about_for_each_number_up_to_three_and_for_a_verdict_once(
    tmp_path: Path, mode: str, steps: int, numbers: int, asked: int
) -> None:
    setup = config(steps=steps, candidates=4, checks=10, masks=3, mode=mode)
    (task,) = tasks = questions(setup)
    assert len(re.findall(r"\d+", conditions(task))) == numbers
    run = play(tmp_path / "run", setup, {"actor": actor(tasks, cycling(70, 80, 70, 90), lambda *_: True)})
    made = Counter((row["purpose"], last(row)) for row in backwards(run, task))
    assert len(made) == 3 * asked
    assert set(made.values()) == {10}


@pytest.mark.signature("self-verification", 4)
def test_the_truth_is_not_used_and_nothing_is_remembered(tmp_path: Path) -> None:
    """The right answer is among the candidates and loses, since nothing is recovered under it."""
    setup = config(tasks=3, candidates=2)
    tasks = questions(setup)
    truth = {task.prompt: task.data["answer"] for task in tasks}
    rightly: Counter[str] = Counter()

    def forward(task: Task) -> int:
        rightly[task.id] += 1
        return truth[task.prompt] if rightly[task.id] == 1 else 900

    run = play(tmp_path / "run", setup, {"actor": actor(tasks, forward, lambda task, answer: answer == "900")})
    assert handed_in(run) == [path(900)] * 3
    assert not any(scores[0] for scores in generations(run)[0]["scores"].values())
    with memory_of(run) as memory:
        assert not memory.records()
        assert not memory.ledger.commits()
    assert {row["model"]["adapter"] for row in generations(run)} == {""}


def test_each_phase_is_a_node_of_its_own(tmp_path: Path) -> None:
    setup = config(generations=2, candidates=2)
    run = play(tmp_path / "run", setup, {"actor": actor(questions(setup), cycling(70, 80), lambda *_: True)})
    assert visited(run) == ["tasks", "sample", "rewrite", "verify", "select", "submit", "evaluate"] * 2


def test_one_statement_serves_all_answers_and_another_is_asked_for_where_it_cannot(tmp_path: Path) -> None:
    for number, (stated, asked) in enumerate({"It comes to {} altogether.": 1, "{} and {}: {}": 3, "Hm?": 1}.items()):
        setup = config(candidates=3, checks=1)
        model = actor(questions(setup), cycling(70, 80, 90), lambda *_: True, lambda a, s=stated: s.replace("{}", a))
        model = unfailing(model)
        run = play(tmp_path / str(number), setup, {"actor": model})
        assert len(calls(run, purpose="rewrite")) == asked


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float, float], dict[str, Any]]:
    """The card's simulation: five samples right with p = 0.5, and what is recovered under right and wrong answers."""

    def run_with(right: float, wrong: float) -> dict[str, Any]:
        setup = config(tasks=30, candidates=5, checks=4, masks=2)
        tasks, rng = questions(setup), random.Random(7)
        model = actor(
            tasks,
            lambda task: task.data["answer"] + rng.choice((0, 0, 1, 2)),
            lambda task, answer: rng.random() < (right if answer == str(task.data["answer"]) else wrong),
        )
        run = play(tmp_path_factory.mktemp("run") / "run", setup, {"actor": model})
        (row,) = generations(run)
        truth = {task.id: str(task.data["answer"]) for task in tasks}
        chosen = row["selections"].items()

        def share(pick: Callable[[dict[str, Any]], str]) -> float:
            return sum(pick(each) == truth[task] for task, each in chosen) / len(tasks)

        return {
            "verified": share(lambda each: each["chosen"]),
            "first": share(lambda each: each["answers"][0]),
            "majority": share(lambda each: each["answers"][each["samples"].index(max(each["samples"]))]),
            "chance": sum((truth[task] in each["answers"]) / len(each["answers"]) for task, each in chosen)
            / len(tasks),
            "verdict": result(run)["verdict"],
        }

    return run_with


def test_backward_checks_beat_the_first_answer_and_the_vote(simulated: Any) -> None:
    found = simulated(0.7, 0.25)
    assert found["verified"] > found["majority"] + 0.1
    assert found["verified"] > found["first"] + 0.1
    assert found["verdict"] == "improved"


def test_checks_that_tell_nothing_choose_by_chance(simulated: Any) -> None:
    found = simulated(0.4, 0.4)
    assert abs(found["verified"] - found["chance"]) < 0.15
    assert found["verified"] < found["majority"]
    assert found["verdict"] != "improved"


def test_replies_without_an_answer_lead_to_the_first_of_them(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(candidates=2), {"actor": ScriptedChatModel(lambda messages: "Hm.")})
    assert handed_in(run) == ["Hm."]
    assert next(iter(generations(run)[0]["selections"].values()))["chosen"] is None


def test_a_problem_without_numbers_to_hide_is_answered_first_come(tmp_path: Path) -> None:
    setup = RunConfig(recipe="self-verification", environment="reasoning_gym", tasks=1, generations=1, embedder="hash")
    said = iter(["4", "5", "5", "It is 4.", "4"])
    run = play(tmp_path / "run", setup, {"actor": ScriptedChatModel(lambda messages: next(said))})
    assert not [row for row in calls(run) if row["purpose"].startswith("verify")]
    assert handed_in(run) == ["4"]


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("He has 15 nuts and 5 figs.", ["15", "5"]),
        ("It costs $2.50, not 1,200 pounds. Take 3.", ["5/2", "1200", "3"]),
        ("At -4 degrees, 50% of b2 on the 3rd shelf.", ["-4", "50"]),
        ("Nothing.", []),
    ],
)
def test_whole_numbers_are_hidden_each_in_its_own_place(text: str, hidden: list[str]) -> None:
    found = backward.masks(text, 9)
    assert [each.hidden for each in found] == hidden
    assert all(each.text.count("X") == 1 for each in found)
    assert len({each.text for each in found}) == len(found)


def test_the_last_sentence_is_the_question() -> None:
    split = backward.conditions_and_question
    assert split("Mr. Wu pays 2.5 pounds. How much is that? ") == ("Mr. Wu pays 2.5 pounds.", "How much is that?")
    assert split("What is 3 + 4?") == ("", "What is 3 + 4?")


def test_a_statement_names_its_answer_whole_and_asks_nothing() -> None:
    question = "How many nuts are left?"
    assert backward.statement_in("\n5 nuts are left.\nYes.", question, "5") == "5 nuts are left."
    assert backward.statement_in("15 nuts are left.", question, "5") is None
    assert backward.statement_in("How many nuts are left? 5", question, "5") is None
    assert backward.with_answer("5 nuts of 15 are left.", "5", "6") == "6 nuts of 15 are left."
    assert backward.with_answer("5 and 5", "5", "6") is None
    assert backward.plain_statement(question, "5") == "5 nuts are left."
    assert backward.plain_statement("Who is it?", "Lea") == "The answer is Lea."


@pytest.mark.parametrize(
    ("reply", "verdict"), [("Yes.", True), ("3*4=12.\nThe answer is no.", False), ("", False), ("It is true", False)]
)
def test_a_verdict_is_read(reply: str, verdict: bool) -> None:
    assert backward.agrees(reply) is verdict


def test_paper_preset_has_the_card_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.candidates, paper.checks, paper.masks, paper.reply_tokens) == (5, 10, 3, 168)


def unfailing(model: ScriptedChatModel) -> ScriptedChatModel:
    """Recovers 0 whatever the statement says."""
    script = model.replies
    assert callable(script)
    return ScriptedChatModel(lambda m: path(0) if str(m[-1].text).endswith(REQUEST) else script(m))
