"""Promptbreeder's signature, line by line, through whole runs."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from systems.obedient import Obedient, skill
from systems.problems import problems, questions
from systems.runs import calls, generations, memory_of, play, prompt, resume, visited

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.promptbreeder import PRESETS
from evolvent.agents.refinement.near_duplicates import without_near_duplicates
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, result
from evolvent.agents.solutions.two_stage import WORK
from evolvent.agents.tasks.genome import Genome
from evolvent.agents.tasks.prompt_evolution import OPERATORS, Other, crossover, instruction_in, renewed
from evolvent.agents.tasks.prompt_seeds import MUTATION_PROMPTS, THINKING_STYLES
from evolvent.environments.types import Trajectory
from evolvent.memory.types import Record


def config(generations: int = 2, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="promptbreeder",
        environment="word_problems",
        tasks=settings.pop("tasks", 6),
        evaluated=settings.pop("evaluated", 2),
        generations=generations,
        settings={"finalists": 1} | settings,
        embedder="hash",
    )


def obedient(asked: RunConfig, *, deaf: bool = False) -> Obedient:
    """The simulated solver and writer, who knows every question of the run."""
    return Obedient([*questions(asked), *problems(asked, "test"), *problems(asked, "validation", 30)], deaf=deaf)


def writer(write: Callable[[str], str], answer: str = "The answer is 7.") -> ScriptedChatModel:
    """Writes by `write(request)` and answers every question alike."""

    def reply(messages: Any) -> str:
        said = [str(message.text) for message in messages]
        return write(said[-1]) if "You write instructions" in said[0] else answer

    return ScriptedChatModel(reply)


def fitness(run: Path, generation: int) -> dict[str, float]:
    """Mean score of each individual, from its training episodes and not from what the recipe tells."""
    scores: dict[str, list[float]] = {}
    with memory_of(run) as memory:
        for episode in memory.ledger.episodes(phase="train", generation=generation):
            (trajectory,) = episode.trajectories
            (shown,) = trajectory.recalled
            scores.setdefault(shown.record, []).append(trajectory.outcome.score)
    return {unit: float(np.mean(found)) for unit, found in scores.items()}


def records(run: Path) -> dict[str, Record]:
    with memory_of(run) as memory:
        return dict(memory.records())


def tournaments(run: Path, generation: int) -> tuple[list[str], list[Record], Mapping[str, Record]]:
    """Who was retired, who was born, and all records as they were before."""
    with memory_of(run) as memory:
        (commit,) = [each for each in memory.ledger.commits() if each.key == f"{generation}/replace"]
        events = memory.ledger.events_of(commit.id)
        before = memory.records(commit.parent)
    dead = [event.record_id for event in events if event.kind == "retire"]
    born = [event.record for event in events if event.kind == "add" and event.record]
    return dead, born, before


def trajectories(run: Path, phase: Any = "train") -> list[Trajectory]:
    with memory_of(run) as memory:
        return [episode.trajectories[0] for episode in memory.ledger.episodes(phase=phase)]


def told(trajectory: Trajectory) -> str:
    """The question and both outputs."""
    (step,) = trajectory.steps
    (first,) = [message.text for message in step.messages if message.role == "assistant"]
    return f"{trajectory.task.prompt}\n{first}\n{step.reply}"


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three generations of six with all operators."""
    asked = config(3, population=6, fitness_batch=4, crossover_probability=0.3)
    return play(tmp_path_factory.mktemp("evolved") / "run", asked, {"actor": obedient(asked)})


@pytest.mark.signature("promptbreeder", 0)
def test_in_each_pair_the_fitter_one_stays_unchanged_and_its_child_takes_the_other_s_place(evolved: Path) -> None:
    known = records(evolved)
    for generation in (1, 2, 3):
        dead, born, before = tournaments(evolved, generation)
        scores = fitness(evolved, generation)
        alive = {unit for unit, record in before.items() if record.status == "active"}
        assert set(scores) == alive
        assert len(alive) == 6
        assert (len(dead), len(born)) == (3, 3)
        winners = [child.parents[0] for child in born]
        assert sorted([*winners, *dead]) == sorted(alive)  # every loser's slot, and every winner once
        for winner, loser in zip(winners, dead, strict=True):
            assert scores[winner] >= scores[loser]
            assert replace(known[winner], status="active", recalls=0) == replace(before[winner], recalls=0)
        assert {known[unit].status for unit in dead} == {"retired"}
    assert sum(record.status == "active" for record in known.values()) == 6
    assert [record.recalls for record in known.values() if record.generation == 3] == [0] * 3  # no batch met them yet
    assert {record.recalls % 4 for record in known.values()} == {0}


@pytest.mark.signature("promptbreeder", 1)
@pytest.mark.parametrize("operator", ["hyper_zero", "hyper_first"])
def test_a_hypermutation_changes_the_mutation_prompt_and_uses_it_at_once(tmp_path: Path, operator: str) -> None:
    asked = config(2, operators=[operator], crossover_probability=0)
    run = play(tmp_path / "run", asked, {"actor": obedient(asked)})
    known = records(run)
    children = [each for each in known.values() if each.meta["operator"] == operator]
    assert children
    used = {row["reply"]: prompt(row) for row in calls(run, purpose=f"{operator}_used")}
    for child in children:
        parent = known[child.parents[0]]
        own = child.meta["mutation_prompt"]
        assert own != parent.meta["mutation_prompt"]
        both = zip(child.text.split("\n"), parent.text.split("\n"), strict=True)
        ((changed, before),) = [each for each in both if each[0] != each[1]]
        assert own in used[changed]
        assert before in used[changed]
    for row in calls(run, purpose=operator):
        old = [each.meta["mutation_prompt"] in prompt(row) for each in known.values()]
        styles = [style in prompt(row) for style in THINKING_STYLES]
        assert (any(styles), any(old)) == ((True, False) if operator == "hyper_zero" else (False, True))


@pytest.mark.signature("promptbreeder", 2)
def test_a_question_costs_two_calls_and_the_second_one_reads_the_first_one_s_output(evolved: Path) -> None:
    known = records(evolved)
    played = trajectories(evolved)
    assert len(played) == 3 * 6 * 4
    by_episode: dict[str, list[Any]] = {}
    for row in calls(evolved, role="actor", phase="train"):
        by_episode.setdefault(row["episode"], []).append(row)
    for trajectory in played:
        first, second = by_episode[trajectory.id]
        (shown,) = trajectory.recalled
        one, two = known[shown.record].text.split("\n")
        assert (first["purpose"], second["purpose"]) == (WORK, "act")
        assert trajectory.task.prompt in prompt(first)
        assert prompt(first).index(one) < prompt(first).index(trajectory.task.prompt)
        assert [message["content"] for message in second["messages"][-2:]] == [first["reply"], two]
        assert trajectory.task.prompt in prompt(second)
        assert trajectory.steps[0].reply == second["reply"]


@pytest.mark.signature("promptbreeder", 3)
def test_the_ranked_list_goes_from_worst_to_best_under_a_claim_of_the_contrary(tmp_path: Path) -> None:
    asked = config(3, operators=["eda_rank"], population=6, fitness_batch=4, crossover_probability=0)
    run = play(tmp_path / "run", asked, {"actor": obedient(asked)})
    known = records(run)
    lengths: Counter[bool] = Counter()
    for generation in (1, 2, 3):
        scores = fitness(run, generation)
        for row in calls(run, purpose="eda_rank", generation=generation):
            assert "descending order of quality, the best one first" in prompt(row)
            listed = re.findall(r"^\d+\. (.+)$", row["messages"][-1]["content"], re.MULTILINE)
            at = [[known[unit].text.split("\n")[place] for unit in scores] for place in (0, 1)]
            (prompts,) = [texts for texts in at if set(texts) == set(listed)][:1]
            best = {
                text: max(s for each, s in zip(prompts, scores.values(), strict=True) if each == text)
                for text in prompts
            }
            assert [best[text] for text in listed] == sorted(best.values())
            assert len(set(listed)) == len(listed)
            lengths[len(listed) < len(prompts)] += 1
    assert lengths[True]  # duplicates were there to be left out


@pytest.mark.signature("promptbreeder", 3)
@pytest.mark.parametrize("operator", ["eda", "eda_rank"])
def test_prompts_that_are_nearly_one_are_listed_once(tmp_path: Path, operator: str) -> None:
    same = iter(
        [
            "Add it up.",
            "add it UP!",
            "Draw boxes.",
            "Add it up",
            "Draw boxes!",
            "Add it up!",
            "draw boxes",
            "DRAW boxes",
        ]
    )
    model = writer(lambda request: "Say it aloud." if "next one of the list" in request else next(same))
    run = play(tmp_path / "run", config(1, operators=[operator], crossover_probability=0), {"actor": model})
    asked = calls(run, purpose=operator)
    assert len(asked) == 2
    for row in asked:
        listed = re.findall(r"^\d+\. (.+)$", row["messages"][-1]["content"], re.MULTILINE)
        assert sorted(text.lower().strip(".!") for text in listed) == ["add it up", "draw boxes"]


@pytest.mark.signature("promptbreeder", 4)
def test_the_lamarckian_request_shows_a_correct_working_and_no_task_prompt(tmp_path: Path) -> None:
    asked = config(3, operators=["lamarckian"], fitness_batch=6, crossover_probability=0)
    run = play(tmp_path / "run", asked, {"actor": obedient(asked)})
    known = records(run)
    by_id = {each.id: each for each in trajectories(run)}
    prompts = {line for each in known.values() for line in each.text.split("\n")}
    requests = calls(run, purpose="lamarckian")
    children = [each for each in known.values() if each.meta["operator"] == "lamarckian"]
    assert children
    for row in requests:
        own = row["messages"][-1]["content"]
        (shown,) = {told(each) for each in by_id.values() if f":\n{told(each)}\nWhat was" in own}
        assert {each.outcome.success for each in by_id.values() if told(each) == shown} == {True}
        assert not [line for line in own.splitlines() if line in prompts]
    for child in children:
        winner, learned_from = child.parents
        assert by_id[learned_from].outcome.success
        assert [each.record for each in by_id[learned_from].recalled] == [winner]


@pytest.mark.signature("promptbreeder", 4)
def test_without_a_correct_working_the_lamarckian_operator_falls_back_to_hints(tmp_path: Path) -> None:
    hints = iter(f"{number}. Mind number {number}." for number in range(99))
    model = writer(lambda request: next(hints), answer="I do not know.")
    run = play(tmp_path / "run", config(1, operators=["lamarckian"], crossover_probability=0), {"actor": model})
    assert not calls(run, purpose="lamarckian")
    assert len(calls(run, purpose="zero_order")) == 2
    children = [each for each in records(run).values() if each.meta["drawn"] == "lamarckian"]
    assert [each.meta["operator"] for each in children] == ["zero_order"] * 2


@pytest.mark.signature("promptbreeder", 5)
def test_weights_stay_and_no_test_task_bears_on_evolution_and_fitness_is_drawn_anew(
    evolved: Path, tmp_path: Path
) -> None:
    assert {row["model"]["adapter"] for row in generations(evolved)} == {""}
    bred = [row for row in calls(evolved) if row["phase"] in ("train", "gate")]
    assert {row["phase"] for row in calls(evolved)} == {"train", "eval"}
    tested = {each.task.prompt for each in trajectories(evolved, "eval")}
    assert not [row for row in bred if any(question in prompt(row) for question in tested)]
    assert (
        len({frozenset(each.task.id for each in trajectories(evolved) if each.generation == g) for g in (1, 2, 3)}) == 3
    )
    scores = [fitness(evolved, generation) for generation in (1, 2, 3)]
    survivors = [(one[unit], two[unit]) for one, two in pairwise(scores) for unit in one if unit in two]
    assert [pair for pair in survivors if pair[0] != pair[1]]
    # Other test tasks, the same evolution.
    asked = config(3, population=6, fitness_batch=4, crossover_probability=0.3, evaluated=5)
    again = play(tmp_path / "run", asked, {"actor": obedient(asked)})
    assert {unit: record.parents for unit, record in records(again).items()} == {
        unit: record.parents for unit, record in records(evolved).items()
    }


def test_each_phase_is_a_node_of_its_own(evolved: Path) -> None:
    turn = ["pair", "score", "tournament", "mutate", "cross", "replace", "confirm", "evaluate"]
    assert visited(evolved) == ["baseline", "initialise", *turn * 3]


def test_a_row_tells_fitness_and_which_operators_children_won(evolved: Path) -> None:
    _, *rows = generations(evolved)
    known = records(evolved)
    for row in rows:
        assert row["fitness"] == fitness(evolved, row["generation"])
        fittest = row["model"]["individual"]
        assert row["fitness"][fittest] == max(row["fitness"].values())
        assert {
            each.recalled[0].record for each in trajectories(evolved, "eval") if each.generation == row["generation"]
        } == {fittest}
        born = Counter(each.meta["operator"] for each in known.values() if each.generation == row["generation"])
        told = {name: counts["born"] for name, counts in row["operators"].items() if counts.get("born")}
        assert told == dict(born)
    first = rows[0]["operators"]["first"]
    assert (first["met"], first["won"]) == (6, 3)
    assert sum(counts.get("met", 0) for counts in rows[1]["operators"].values()) == 3
    assert rows[0]["prompt_words"] == np.mean([len(known[unit].text.split()) for unit in rows[0]["fitness"]])


@pytest.mark.parametrize("reply", ["", "..."])
def test_a_writer_who_says_nothing_leaves_copies_of_the_winners_and_no_prompt_is_empty(
    tmp_path: Path, reply: str
) -> None:
    run = play(tmp_path / "run", config(2, crossover_probability=0), {"actor": writer(lambda request: reply)})
    known = records(run)
    assert {line in THINKING_STYLES for each in known.values() for line in each.text.split("\n")} == {True}
    children = [each for each in known.values() if each.parents]
    assert {each.meta["operator"] for each in children} <= {"copy", "crossover"}
    assert all(each.meta["mutation_prompt"] in MUTATION_PROMPTS for each in known.values())


def test_a_writer_whose_calls_fail_stops_nothing(tmp_path: Path) -> None:
    def refuse(request: str) -> str:
        raise ValueError("out of order")

    asked = config(1)
    create(asked, tmp_path / "run")
    with pytest.raises(AssertionError, match="out of order"):  # from the helper, which wants every call answered
        resume(tmp_path / "run", {"actor": writer(refuse)})
    assert len(generations(tmp_path / "run")) == 2
    assert sum(each.status == "active" for each in records(tmp_path / "run").values()) == 4


def test_a_run_that_was_killed_asks_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    def dying(request: str) -> str:
        if "hints" in request:
            raise KeyboardInterrupt
        return f"Mind the {len(request)}."

    asked = config(2, operators=["zero_order", "first_order"])
    create(asked, tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "killed", {"actor": writer(dying)})
    model = writer(lambda request: f"Mind the {len(request)}.")
    run_sync(execute(tmp_path / "killed", models={"actor": model}))
    whole = play(tmp_path / "whole", asked, {"actor": model})
    made = Counter((row["episode"], row["purpose"]) for row in calls(tmp_path / "killed") if "error" not in row)
    assert set(made.values()) == {1}
    assert records(tmp_path / "killed") == records(whole)


def test_the_few_shot_version_shows_correct_workings_before_the_first_prompt(tmp_path: Path) -> None:
    asked = config(3, fitness_batch=6, worked_examples=2, operators=["first_order"])
    run = play(tmp_path / "run", asked, {"actor": obedient(asked)})
    right = {told(each) for each in trajectories(run) if each.outcome.success}
    known = records(run)
    assert {example for each in known.values() for example in each.meta["examples"]} <= right
    assert max(len(each.meta["examples"]) for each in known.values()) == 2
    shown = 0
    for each in trajectories(run):
        unit = known[each.recalled[0].record]
        (work,) = calls(run, episode=each.id, purpose=WORK)
        first = prompt(work).index(f"{unit.text.splitlines()[0]}\n{each.task.prompt}")
        assert all(0 <= prompt(work).index(example) < first for example in unit.meta["examples"])
        shown += bool(unit.meta["examples"])
    assert shown


def test_the_fittest_are_scored_again_on_common_validation_tasks_before_one_is_returned(tmp_path: Path) -> None:
    asked = config(2, finalists=3, final_batch=4)
    run = play(tmp_path / "run", asked, {"actor": obedient(asked)})
    again = trajectories(run, "gate")
    assert {each.generation for each in again} == {2}
    by_unit: dict[str, set[str]] = {}
    for each in again:
        by_unit.setdefault(each.recalled[0].record, set()).add(each.task.id)
    assert len(by_unit) == 3
    (tasks,) = {frozenset(each) for each in by_unit.values()}
    assert tasks == {task.id for task in problems(asked, "validation", 2)}
    last = generations(run)[-1]
    assert last["finals"][last["model"]["individual"]] == max(last["finals"].values())
    left_out = [last["fitness"][unit] for unit in last["fitness"] if unit not in by_unit]
    assert min(last["fitness"][unit] for unit in by_unit) >= max(left_out)


def test_a_pair_may_share_its_batch(tmp_path: Path) -> None:
    asked = config(1, common_batches=True, fitness_batch=2)
    run = play(tmp_path / "run", asked, {"actor": obedient(asked)})
    dead, born, _ = tournaments(run, 1)
    drawn: dict[str, set[str]] = {}
    for each in trajectories(run):
        drawn.setdefault(each.recalled[0].record, set()).add(each.task.id)
    assert [drawn[loser] == drawn[child.parents[0]] for loser, child in zip(dead, born, strict=True)] == [True, True]


def test_screening_spends_the_whole_batch_on_the_best_quarter_alone(tmp_path: Path) -> None:
    asked = config(1, population=8, fitness_batch=6, screening=2)
    run = play(tmp_path / "run", asked, {"actor": obedient(asked)})
    played = Counter(each.recalled[0].record for each in trajectories(run))
    assert sorted(played.values()) == [2] * 6 + [6] * 2
    scores = generations(run)[-1]["fitness"]
    assert max(scores[unit] for unit in played if played[unit] == 2) <= min(
        scores[unit] for unit in played if played[unit] == 6
    )
    assert "screen" in visited(run)


# -- its effect, simulated ---------------------------------------------------------------------------------------------


def test_evolved_prompts_beat_first_prompts_at_equal_fitness_evaluations(tmp_path: Path) -> None:
    """The card's simulation, one seed of it; `bench_promptbreeder` has more of them, and the ablations."""
    settings = {"fitness_batch": 4, "finalists": 2, "final_batch": 12}
    found = {}
    for arm, population, turns in (("evolved", 6, 7), ("random", 42, 1)):
        asked = config(turns, population=population, tasks=12, **settings).model_copy(update={"seed": 2})
        run = play(tmp_path / arm, asked, {"actor": obedient(asked)})
        assert len(trajectories(run)) == 6 * 7 * 4
        found[arm] = skill(records(run)[generations(run)[-1]["model"]["individual"]].text)
    assert found["evolved"] > found["random"] > skill("")


def test_a_solver_that_takes_no_notice_of_its_prompts_gains_nothing(tmp_path: Path) -> None:
    asked = config(2, evaluated=20)
    run = play(tmp_path / "run", asked, {"actor": obedient(asked, deaf=True)})
    assert result(run)["verdict"] != "improved"


# -- its parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Instruction: Add it up.", "Add it up."),
        ('The new instruction is: "Add it up."', "Add it up."),
        ("3. Add it up.\nThen check.", "Add it up. Then check."),
        ("Check it. Check it. Check it.", "Check it."),
        (" \n** ", ""),
    ],
)
def test_an_instruction_is_one_line_that_says_nothing_twice(reply: str, found: str) -> None:
    assert instruction_in(reply) == found


def test_crossover_draws_in_proportion_to_fitness_and_of_any_where_none_is_fit() -> None:
    own = Genome(("a", "b"), "how")
    others = [Other("fit", Genome(("c", "d"), "x"), 0.6), Other("less", Genome(("e", "f"), "x"), 0.2)]
    rng = random.Random(0)
    drawn = Counter(crossover(own, 1, others, rng).also[0] for _ in range(2000))  # type: ignore[union-attr]  # others differ
    assert drawn["fit"] / 2000 == pytest.approx(0.75, abs=0.03)
    found = crossover(own, 1, others, rng)
    assert found is not None
    assert found.genome.task_prompts in (("a", "d"), ("a", "f"))
    assert crossover(own, 0, [Other("unfit", Genome(("c", "d"), "x"), 0.0)], rng) is not None
    assert crossover(own, 0, [Other("same", Genome(("a", "d"), "x"), 1.0)], rng) is None


def test_a_worked_example_is_swapped_or_all_are_drawn_anew() -> None:
    rng = random.Random(0)
    assert renewed((), [], rng, most=2, resample=1.0) == ()
    assert len(renewed((), ["a", "b", "c"], rng, most=2, resample=0.0)) == 2
    swapped = renewed(("a", "b"), ["a", "c"], rng, most=2, resample=0.0)
    assert swapped in (("a", "c"), ("b", "c"))
    assert renewed(("a",), ["a", "c"], rng, most=2, resample=0.0) == ("a", "c")
    assert renewed(("a", "b"), ["a"], rng, most=2, resample=0.0) == ("a", "b")
    assert set(renewed(("a", "b"), ["c", "d"], rng, most=2, resample=1.0)) == {"c", "d"}


def test_near_duplicates_go_and_what_comes_first_stays() -> None:
    at = {"one": (1.0, 0.0), "nearly one": (0.96, 0.28), "other": (0.6, 0.8)}

    def embed(texts: Any) -> Any:
        return np.array([at[text] for text in texts], np.float32)

    assert without_near_duplicates(["one", "nearly one", "other"], embed, limit=0.95) == ["one", "other"]
    assert without_near_duplicates(["nearly one", "one"], embed, limit=0.97) == ["nearly one", "one"]
    assert without_near_duplicates([], embed, limit=0.95) == []


def test_paper_preset_has_the_card_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.population, paper.fitness_batch, paper.eda_cosine_limit) == (50, 100, 0.95)
    assert (paper.crossover_probability, paper.context_resample_probability) == (0.1, 0.1)
    assert paper.operators == OPERATORS
    assert len(OPERATORS) == 9
