"""MoT's signature, line by line, through whole runs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from systems.premises import LABELS
from systems.problems import problems, questions
from systems.runs import calls, generations, memory_of, play, prompt, visited

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.mot import PRESETS, Config, build
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, result
from evolvent.environments.types import Task
from evolvent.memory.types import Record

_LISTED = re.compile(r"^\d+\. (.*)$", re.MULTILINE)


def config(tasks: int = 3, evaluated: int = 2, generations: int = 1, **settings: Any) -> RunConfig:
    """`preset`, `environment` and `options` are the run's, all else is the recipe's."""
    run = {name: settings.pop(name) for name in ("preset", "options") if name in settings}
    environment = settings.pop("environment", "word_problems")
    return RunConfig(
        recipe="mot",
        environment=environment,
        tasks=tasks,
        evaluated=evaluated,
        generations=generations,
        settings=settings,
        embedder="hash",
        **run,
    )


def chain(answer: object) -> str:
    return f"Reckoned so.\nThe answer is {answer}."


def premises(key: int = 0) -> RunConfig:
    options = {"key": key}
    return config(36, 5, environment="systems.premises:Premises", options=options, paths=2, shots=0)


def by_length(task: Task, k: int) -> str:
    return chain(LABELS[len(task.prompt) % len(LABELS)])


@dataclass
class Thinker:
    """A model that thinks ahead by `think(task, k-th chain)`, answers by `solve(task, what stands before it)`, and
    names, of the questions that are listed, the one that `choose` gives the number of."""

    asked: RunConfig
    think: Callable[[Task, int], str]
    solve: Callable[[Task, str], str] = lambda task, shown: chain(0)
    choose: Callable[[str, list[str]], str] = lambda question, listed: "1"

    def model(self) -> ScriptedChatModel:
        ahead, held_out = questions(self.asked), problems(self.asked, "test")
        more = problems(self.asked.model_copy(update={"evaluated": 160}), "validation") if self._proves else []
        thought: dict[str, int] = {}

        def reply(messages: Any) -> str:
            text = "\n".join(str(message.text) for message in messages)
            if "its number alone" in text:
                question = text.split("\n")[1]
                return self.choose(question, _LISTED.findall(text))
            task = max([*ahead, *held_out, *more], key=lambda each: text.rfind(each.prompt))
            if task not in ahead:
                return self.solve(task, text[: text.rfind(task.prompt)])
            thought[task.id] = thought.get(task.id, -1) + 1
            return self.think(task, thought[task.id])

        return ScriptedChatModel(reply)

    @property
    def _proves(self) -> bool:
        return bool(self.asked.settings.get("prove"))


def memories(run: Path) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.kind == "note"]


def demonstrated(call: dict[str, Any], notes: Sequence[Record]) -> list[Record]:
    """The memories in a prompt, in the order in which they stand there."""
    text = prompt(call)
    return sorted((note for note in notes if note.text in text), key=lambda note: text.find(note.text))


@pytest.mark.signature("mot", 0)
def test_fifteen_of_sixteen_are_kept_and_fourteen_not_and_a_wrong_answer_of_all_is(tmp_path: Path) -> None:
    asked = config(tasks=3, preset="paper")
    first, second, third = questions(asked)
    votes = {
        first.id: ["7", *["5"] * 15],
        second.id: ["7", "7", *["5"] * 14],
        third.id: [str(third.data["answer"] + 1)] * 16,
    }
    run = play(tmp_path / "run", asked, {"actor": Thinker(asked, lambda task, k: chain(votes[task.id][k])).model()})
    kept = {note.meta["question"]: note.meta for note in memories(run)}
    assert set(kept) == {first.prompt, third.prompt}
    assert kept[first.prompt]["entropy"] == pytest.approx(0.234, abs=0.001)
    assert kept[first.prompt]["predicted"] == "5"
    assert kept[third.prompt]["predicted"] == str(third.data["answer"] + 1)
    (row,) = generations(run)[1:]
    assert row["entropy"][second.id] == pytest.approx(0.377, abs=0.001)
    assert row["stream"][third.id] == 0.0


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Runs on one and the same stories, with the right answers that a key draws."""
    folder = tmp_path_factory.mktemp("stories")

    def played(key: int) -> Path:
        asked, run = premises(key), folder / str(key)
        return run if run.exists() else play(run, asked, {"actor": Thinker(asked, by_length).model()})

    return played


@pytest.mark.signature("mot", 1)
def test_other_labels_change_scores_and_not_a_word_of_the_memory_s_prompts(stories: Callable[[int], Path]) -> None:
    told = []
    for run in (stories(0), stories(1)):
        scores = [row.get("stream") for row in generations(run)]
        texts = sorted((note.id, note.text, str(note.meta)) for note in memories(run))
        told.append((texts, sorted(prompt(row) for row in calls(run)), scores))
    (texts, prompts, scores), (others, other_prompts, other_scores) = told
    assert scores != other_scores
    assert texts == others
    assert prompts == other_prompts
    assert [each for each in prompts if any(text in each for _, text, _ in texts)], "memories are prompted with"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty memories, and a model that picks the last question of each list."""
    asked = config(tasks=60, evaluated=5, paths=1, shots=0)
    thinker = Thinker(asked, lambda task, k: chain(k), choose=lambda question, listed: f"Number {len(listed)}, I say.")
    return play(tmp_path_factory.mktemp("mot") / "run", asked, {"actor": thinker.model()})


@pytest.mark.signature("mot", 2)
def test_four_demonstrations_come_of_four_clusters_each_chosen_among_ten_questions_alone(wide: Path) -> None:
    notes = {note.meta["question"]: note for note in memories(wide)}
    longest = 0
    for answering in calls(wide, generation=1, phase="eval", purpose="act"):
        asked = [prompt(row) for row in calls(wide, generation=1, task=answering["task"], purpose="select")]
        lists = [_LISTED.findall(text) for text in asked]
        assert not [text for text in asked if "Reckoned" in text or "answer is" in text]
        for listed in lists:
            assert len({notes[question].meta["cluster"] for question in listed}) == 1
            longest = max(longest, len(listed))
        shown = demonstrated(answering, list(notes.values()))
        assert {note.meta["cluster"] for note in shown} == {0, 1, 2, 3}
        assert [note.meta["question"] for note in shown] == [listed[-1] for listed in lists]
    assert longest == 10, "some cluster has more than may be listed"


@pytest.mark.signature("mot", 3)
def test_a_test_question_costs_four_calls_that_choose_and_one_and_leaves_memory_as_it_is(wide: Path) -> None:
    made = calls(wide, generation=1, phase="eval")
    assert {row["task"] for row in made} == {task.id for task in problems(config(evaluated=5), "test")}
    for task in {row["task"] for row in made}:
        purposes = [row["purpose"] for row in made if row["task"] == task]
        assert (purposes.count("select"), purposes.count("act"), len(purposes)) == (4, 1, 5)
    assert not calls(wide, generation=0, purpose="select"), "the frozen control has nothing to choose from"
    with memory_of(wide) as memory:
        assert [commit.key for commit in memory.ledger.commits()] == ["1/remember", "1/cluster"]
    assert generations(wide)[1]["memories"] == len(memories(wide)) == 60


@pytest.mark.signature("mot", 4)
def test_no_memory_of_the_test_item_s_own_premise_is_offered_or_shown(stories: Callable[[int], Path]) -> None:
    asked, run = premises(), stories(0)
    known, held_out = {note.meta["question"]: note for note in memories(run)}, problems(asked, "test")
    assert {task.tags for task in held_out} <= {tuple(note.meta["tags"]) for note in known.values()}
    offered = 0
    for task in held_out:
        for call in calls(run, generation=1, phase="eval", task=task.id):
            stories = {tuple(note.meta["tags"]) for question, note in known.items() if question in prompt(call)}
            assert stories
            assert task.tags not in stories
            offered += call["purpose"] == "select"
    assert offered == 4 * len(held_out)


@pytest.mark.signature("mot", 5)
def test_a_prompt_over_its_budget_loses_whole_demonstrations_from_the_end(tmp_path: Path) -> None:
    budget = 120
    asked = config(tasks=12, evaluated=4, paths=1, shots=0, prompt_tokens=budget)
    run = play(tmp_path / "run", asked, {"actor": Thinker(asked, lambda task, k: chain(k)).model()})
    notes = {note.meta["question"]: note for note in memories(run)}
    for answering in calls(run, generation=1, phase="eval", purpose="act"):
        selects = calls(run, generation=1, task=answering["task"], purpose="select")
        chosen = [notes[_LISTED.findall(prompt(row))[0]] for row in selects]
        shown = demonstrated(answering, list(notes.values()))
        assert 0 < len(shown) < len(chosen) == 4
        assert shown == chosen[: len(shown)]
        left_out = chosen[len(shown) :]
        assert not [note for note in left_out if note.text[:20] in prompt(answering)], "not even a part"
        assert len(prompt(answering)) / 4 <= budget
        assert len(prompt(answering) + left_out[0].text) / 4 + 3 > budget, "and no more than has to go"


# -- its effect --------------------------------------------------------------------------------------------------------


def skilled(asked: RunConfig, *, helped: bool = True) -> Thinker:
    """Half the questions are easy to it and half are guessed at, by its own uncertain chains. It answers a new question
    as the one of the same kind that it is shown was answered, rightly or wrongly, and else one in four."""
    ahead, held_out = {task.prompt: task for task in questions(asked)}, problems(asked, "test")

    def think(task: Task, k: int) -> str:
        rng = random.Random(f"{task.id}/{k}")
        right = rng.random() < (0.97 if hash_of(task) % 2 else 0.3)
        return chain(task.data["answer"] if right else task.data["answer"] + rng.choice((1, 1, 1, 2, 3)))

    def solve(task: Task, shown: str) -> str:
        like = [each for text, each in ahead.items() if text in shown and each.tags == task.tags]
        right = hash_of(task) % 4 == 0
        if like and helped:
            right = f"The answer is {like[0].data['answer']}." in shown
        return chain(task.data["answer"] + (not right))

    def choose(question: str, listed: list[str]) -> str:
        (task,) = [each for each in held_out if each.prompt == question]
        same = [number for number, each in enumerate(listed, 1) if ahead[each].tags == task.tags]
        return str(same[0] if same else 1)

    return Thinker(asked, think, solve, choose)


def hash_of(task: Task) -> int:
    return random.Random(task.id).getrandbits(16)


@pytest.fixture(scope="module")
def success(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    folder = tmp_path_factory.mktemp("skilled")

    def played(name: str, *, helped: bool = True, **settings: Any) -> dict[str, Any]:
        asked = config(tasks=30, evaluated=24, paths=6, shots=0, **settings)
        run = folder / name
        if not run.exists():
            play(run, asked, {"actor": skilled(asked, helped=helped).model()})
        told = result(run)
        return {"success": told["generations"][-1]["held_out"]["success"], "told": told, "row": generations(run)[-1]}

    return played


def test_chosen_memories_beat_random_ones_and_filtered_ones_beat_all(success: Callable[..., Any]) -> None:
    """The card's simulation."""
    full, any_four, unfiltered = (
        success("full"),
        success("random", recall="random"),
        success("unfiltered", threshold=None),
    )
    assert full["told"]["verdict"] == "improved"
    assert full["success"] > any_four["success"]
    assert full["success"] > unfiltered["success"]
    assert unfiltered["row"]["memories"] == 30 > full["row"]["memories"]


def test_the_lower_the_threshold_the_more_stored_answers_are_right(success: Callable[..., Any]) -> None:
    row = success("unfiltered", threshold=None)["row"]

    def precision(threshold: float) -> float:
        kept = [row["stream"][task] for task, entropy in row["entropy"].items() if entropy < threshold]
        return sum(kept) / len(kept)

    found = [precision(each) for each in (0.1, 0.7, 1.1, 9.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] + 0.1


def test_memories_that_help_nobody_bring_no_improvement(success: Callable[..., Any]) -> None:
    """The negative control."""
    assert success("in vain", helped=False)["told"]["verdict"] != "improved"


# -- beside the card ---------------------------------------------------------------------------------------------------


def test_with_proof_a_memory_waits_for_the_gate_and_only_what_it_proves_is_shown(tmp_path: Path) -> None:
    asked = config(tasks=6, evaluated=4, paths=1, shots=0, prove=True, gate_pairs=12, candidates=2)
    thinker = Thinker(
        asked, lambda task, k: chain(k), lambda task, shown: chain(task.data["answer"] * (chain(0) in shown))
    )
    run = play(tmp_path / "run", asked, {"actor": thinker.model()})
    notes = memories(run)
    with memory_of(run) as memory:
        judged = [e for c in memory.ledger.commits() for e in memory.ledger.events_of(c.id) if "gate" in e.payload]
    assert len(judged) == len(notes) == 6
    assert {note.status for note in notes} <= {"active", "retired"}
    active = [note for note in notes if note.status == "active"]
    for answering in calls(run, generation=1, phase="eval", purpose="act"):
        assert demonstrated(answering, notes) == demonstrated(answering, active)


def test_a_second_generation_adds_memories_and_clusters_all_of_them_anew(tmp_path: Path) -> None:
    asked = config(tasks=5, generations=2, paths=1, shots=0)
    run = play(tmp_path / "run", asked, {"actor": Thinker(asked, lambda task, k: chain(k)).model()})
    assert [row.get("memories") for row in generations(run)] == [None, 5, 10]
    assert {note.meta["cluster"] for note in memories(run)} == {0, 1, 2, 3}
    phases = ["tasks", "sample", "filter", "submit", "remember", "cluster", "gate", "evaluate"]
    assert visited(run) == ["baseline", *phases, *phases]
    with memory_of(run) as memory:
        for note in memories(run):
            (parent,) = note.parents
            trajectory = memory.ledger.trajectory(parent)
            assert trajectory is not None
            assert note.text.endswith(trajectory.steps[0].reply)


def test_chains_without_an_answer_leave_no_memory_and_the_question_is_answered_plainly(tmp_path: Path) -> None:
    asked = config(tasks=2, paths=3, shots=0)
    said = ["Who knows.", "12", "It is 12."]
    run = play(tmp_path / "run", asked, {"actor": Thinker(asked, lambda task, k: said[k]).model()})
    assert not memories(run)
    assert set(generations(run)[1]["entropy"].values()) == {None}
    plain = {row["task"]: row["messages"] for row in calls(run, generation=0, phase="eval")}
    assert {row["task"]: row["messages"] for row in calls(run, generation=1, phase="eval")} == plain


def test_a_chain_s_empty_lines_do_not_end_its_demonstration(tmp_path: Path) -> None:
    asked = config(tasks=1, paths=1, shots=0)
    said = "First this.\n \n\nThen that.\n\nThe answer is 4."
    run = play(tmp_path / "run", asked, {"actor": Thinker(asked, lambda task, k: said).model()})
    (note,) = memories(run)
    assert note.text.endswith("First this.\nThen that.\nThe answer is 4.")


def test_a_question_of_which_every_call_fails_is_an_unanswered_one(tmp_path: Path) -> None:
    asked = config(tasks=3, paths=2, shots=0)
    lost = questions(asked)[1]

    def think(task: Task, k: int) -> str:
        if task.id == lost.id:
            raise ValueError("The server is gone.")
        return chain(k)

    run = create(asked, tmp_path / "run")
    run_sync(execute(run, models={"actor": Thinker(asked, think).model()}))
    (row,) = generations(run)[1:]
    assert row["entropy"][lost.id] is None
    assert row["stream"][lost.id] == 0.0


def test_the_paper_preset_has_the_paper_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.paths, paper.temperature, paper.shots, paper.threshold) == (16, 1.2, 4, 0.3)
    assert (paper.clusters, paper.candidates, paper.number_tokens) == (4, 10, 64)
    assert (paper.list_tokens, paper.prompt_tokens) == (3300, 3600)
    assert build(Config()) is not None
