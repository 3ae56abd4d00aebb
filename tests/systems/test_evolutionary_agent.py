"""EvolutionaryAgent's signature, line by line, through whole runs in a society whose norms change."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from systems.runs import calls, generations, memory_of, play, prompt, visited
from systems.villagers import acted, bred, breeder, text, villager, way_of

from evolvent.agents.errors import SetupError
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.evolutionary_agent import PRESETS
from evolvent.agents.refinement.breeding import traits_of
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, result
from evolvent.agents.tasks.profiles import DISPOSITIONS
from evolvent.environments.catalog import build_inline
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.society import MATTERS, Norm, Society
from evolvent.memory.types import Record

PERIODS, REVERSED = 7, 4
"""As the card's small scale has it, the eighth period left out: one of six norms is reversed in the fourth."""
DAYS = 8
TRAITS = [trait for pair in DISPOSITIONS for trait in pair]
NORMS = [Norm(matter, way).text for matter in MATTERS for way in (0, 1)]


def config(generations: int = PERIODS, tasks: int = 6, kind: str = "situations", **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="evolutionary-agent",
        environment="society",
        options={"kind": kind, "days": DAYS},
        tasks=tasks,
        evaluated=2,
        generations=generations,
        settings={
            "population": 12,
            "survivors": 1 / 3,
            "mutation_rate": 0.8,
            "traits": 10,
            "skill_tasks": 0,
            **settings,
        },
        embedder="hash",
    )


def small(generations: int = 2, tasks: int = 6, **settings: Any) -> RunConfig:
    return config(generations, tasks, "both", **{"population": 4, "survivors": 0.5, **settings})


def society(tmp: pytest.TempPathFactory, name: str, run: RunConfig, **others: ScriptedChatModel) -> Path:
    return play(tmp.mktemp(name) / "run", run, {"actor": villager(), "breeder": breeder(), **others})


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return society(tmp_path_factory, "evolved", config())


@pytest.fixture(scope="module")
def by_chance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return society(tmp_path_factory, "chance", config(selection="random"))


@pytest.fixture(scope="module")
def unmutated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return society(tmp_path_factory, "unmutated", config(mutation_rate=0))


def marks(request: str) -> str:
    """A judge who marks the one norm on surplus, by what the observed gave away."""
    numbers = [line.partition(".")[0] for line in request.splitlines() if "left over" in line]
    return "\n".join(f"{number}: {10 if 'I give ' in request else 1}, because I saw it." for number in numbers)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    judge = ScriptedChatModel(lambda messages: marks(text(messages)))
    return society(tmp_path_factory, "judged", small(observer="judge"), judge=judge)


def rows(run: Path) -> list[dict[str, Any]]:
    """Of the periods, from the first one on."""
    return generations(run)[1:]


def individuals(run: Path) -> dict[str, Record]:
    with memory_of(run) as memory:
        return {key: record for key, record in memory.records().items() if record.kind == "profile"}


def born(record: Record) -> tuple[int, ...]:
    return tuple(map(int, record.scope.player.split(".")))


def mean(run: Path, period: int) -> float:
    return float(rows(run)[period - 1]["mean_fitness"])


@cache
def norms(period: int) -> tuple[Norm, ...]:
    return Society(day=period, days=DAYS).norms()


def compliance(genome: str, period: int) -> float:
    """Share of a period's norms that somebody with these traits keeps, worked out without any episode."""
    kept = [norm.kept_by(way_of(traits_of(genome), norm.matter)) for norm in norms(period)]
    return sum(kept) / len(kept)


# -- the signature -----------------------------------------------------------------------------------------------------


@pytest.mark.signature("evolutionary-agent", 0)
def test_as_many_live_in_every_period_the_least_fit_are_gone_and_the_fittest_are_still_there(evolved: Path) -> None:
    known = individuals(evolved)
    for period, following in zip(rows(evolved), [each["fitness"] for each in rows(evolved)[1:]], strict=False):
        fitness = period["fitness"]
        assert len(fitness) == len(following) == 12
        ranked = sorted(fitness, key=lambda name: (-fitness[name], born(known[name])))
        assert set(ranked[:4]) <= set(following)
        assert not set(ranked[4:]) & set(following)
    alive = {name for name, record in known.items() if record.status == "active"}
    assert alive == {each["individual"] for each in rows(evolved)[-1]["population"]}
    assert len(alive) == 12
    assert len(known) == 12 + 8 * PERIODS


@pytest.mark.signature("evolutionary-agent", 1)
def test_a_child_has_two_surviving_parents_and_traits_of_both_before_it_is_mutated(evolved: Path) -> None:
    known = individuals(evolved)
    children = [record for record in known.values() if record.parents]
    assert len(children) == 8 * PERIODS
    lived = [set(each["fitness"]) for each in rows(evolved)]
    mutated, mixed = 0, []
    for child in children:
        one, other = child.parents
        assert one != other
        both = lived[child.generation - 1] if child.generation == PERIODS else lived[child.generation]
        assert {one, other} <= both
        inherited, of_one, of_other = (
            {*traits_of(genome)} for genome in (child.meta["crossed"], known[one].text, known[other].text)
        )
        assert inherited & of_one
        assert inherited & of_other
        assert inherited <= of_one | of_other
        if min(len(of_one - of_other), len(of_other - of_one)) > 1:
            mixed.append(bool(inherited & (of_one - of_other)) and bool(inherited & (of_other - of_one)))
        assert child.meta["mutated"] is (child.text != child.meta["crossed"])
        mutated += child.meta["mutated"]
    assert 0.5 < mutated / len(children) < 1
    assert sum(mixed) > len(mixed) / 2 > 0  # what the two do not share comes from both


@pytest.mark.signature("evolutionary-agent", 2)
def test_fitness_follows_the_norms_of_its_period_and_a_reversal_changes_the_ranking(evolved: Path) -> None:
    known = individuals(evolved)
    for number, row in enumerate(rows(evolved), 1):
        assert row["fitness"] == pytest.approx({name: compliance(known[name].text, number) for name in row["fitness"]})
    (changed,) = {*norms(REVERSED)} - {*norms(REVERSED - 1)}
    before, after = (rows(evolved)[period - 1]["fitness"] for period in (REVERSED - 1, REVERSED))
    stayed = set(before) & set(after)
    for name in stayed:
        gains = changed.kept_by(way_of(traits_of(known[name].text), changed.matter))
        assert after[name] - before[name] == pytest.approx(1 / 6 if gains else -1 / 6)
    # Those who live in the fourth period stand in another order than by the norms of the third.
    assert after != pytest.approx({name: compliance(known[name].text, REVERSED - 1) for name in after})


@pytest.mark.signature("evolutionary-agent", 3)
def test_the_best_never_get_worse_while_norms_stay_and_a_reversal_is_a_dip_that_is_made_good(evolved: Path) -> None:
    best = [row["best_fitness"] for row in rows(evolved)]
    for stretch in (best[: REVERSED - 1], best[REVERSED - 1 :]):
        assert stretch == pytest.approx(sorted(stretch))
    assert mean(evolved, 1) < mean(evolved, 2) < mean(evolved, 3)
    assert mean(evolved, REVERSED) < mean(evolved, 3)
    assert mean(evolved, 7) > mean(evolved, 3) - 1e-9


@pytest.mark.signature("evolutionary-agent", 4)
def test_where_chance_decides_who_survives_as_many_calls_lead_nowhere(evolved: Path, by_chance: Path) -> None:
    assert len(calls(by_chance)) == len(calls(evolved))
    assert mean(by_chance, 1) == mean(evolved, 1)
    assert mean(evolved, PERIODS) - mean(evolved, 1) > 0.25
    assert abs(mean(by_chance, PERIODS) - mean(by_chance, 1)) < 0.1
    assert max(mean(by_chance, period) for period in range(1, 1 + PERIODS)) < mean(evolved, 2)


@pytest.mark.signature("evolutionary-agent", 5)
def test_the_observer_reads_behaviour_and_answers_and_no_genome(judged: Path) -> None:
    asked = calls(judged, purpose="judge")
    genomes = [each.text for each in individuals(judged).values()]
    assert len(asked) == 2 * 4
    for call in asked:
        assert not [trait for trait in {*TRAITS, *(line for genome in genomes for line in traits_of(genome))}
                    if trait in prompt(call)]  # fmt: skip
        assert "What this person did:\n- " in prompt(call)
        assert "I agree." in prompt(call) or "I disagree." in prompt(call)
        assert "pleased" not in prompt(call)
        assert "offended" not in prompt(call)
        assert [text for text in NORMS if text in prompt(call)]


# -- the effect that the card asks for ---------------------------------------------------------------------------------


def test_without_mutation_a_reversal_is_not_made_good(evolved: Path, unmutated: Path) -> None:
    assert mean(unmutated, 3) > mean(unmutated, 1)
    assert mean(unmutated, REVERSED) < mean(unmutated, 3)
    assert mean(unmutated, 7) < mean(unmutated, 3)
    assert rows(unmutated)[-1]["diversity"] < rows(evolved)[-1]["diversity"]


def test_the_fittest_plays_the_held_out_tasks_by_the_norms_of_its_period(evolved: Path) -> None:
    known = individuals(evolved)
    for number, row in enumerate(rows(evolved), 1):
        assert row["fitness"][row["fittest"]] == max(row["fitness"].values())
        tasks = Society(day=number, days=DAYS, kind="situations").tasks("test", 2, 0)
        ways = [way_of(traits_of(known[row["fittest"]].text), task.data["matter"]) for task in tasks]
        expected = [float(way == task.data["way"]) for way, task in zip(ways, tasks, strict=True)]
        assert [scores for (scores,) in row["scores"].values()] == expected


def test_a_skill_that_has_nothing_to_do_with_norms_is_kept(tmp_path: Path) -> None:
    world = build_inline(EnvironmentSpec("word_problems"))
    first, second = world.tasks("test", 2, 0)
    (answer,) = world.expert(first)  # type: ignore[attr-defined]  # not every environment has an expert

    def reply(messages: Any) -> str:
        asked = text(messages)
        return answer if first.prompt in asked else "I do not know." if second.prompt in asked else acted(asked)

    run = play(tmp_path / "run", small(skill_tasks=2), {"actor": ScriptedChatModel(reply), "breeder": breeder()})
    assert [row["skill"] for row in rows(run)] == [{"frozen": 0.5, "population": 0.5}] * 2


# -- who is told what --------------------------------------------------------------------------------------------------


def test_the_breeder_reads_genomes_and_no_norm_and_the_actor_reads_no_norm(judged: Path) -> None:
    breeding = [call for purpose in ("crossover", "mutation") for call in calls(judged, purpose=purpose)]
    assert len(calls(judged, purpose="crossover")) == 2 * 2
    assert all(any(trait in prompt(call) for trait in TRAITS) for call in breeding)
    for call in (*breeding, *calls(judged, purpose="act")):
        assert not [text for text in NORMS if text in prompt(call)]


def test_everybody_remembers_its_own_life_and_nobody_else_s_and_a_child_nothing(evolved: Path) -> None:
    with memory_of(evolved) as memory:
        records = dict(memory.records())
        played = [each.trajectories[0] for each in memory.ledger.episodes(phase="train")]
    births = {name: record.generation for name, record in records.items() if record.kind == "profile"}
    seen = 0
    for trajectory in played:
        profile, *notes = (each.record for each in trajectory.recalled)
        assert trajectory.id.endswith(profile)
        assert len(notes) == min(1, max(0, trajectory.generation - 1 - births[profile]))
        for note in notes:
            assert records[note].scope.player == profile == records[note].parents[0]
            assert all(parent.endswith(profile) for parent in records[note].parents[1:])
            assert records[note].generation == trajectory.generation - 1
            assert records[note].text.count("I ") >= 6
            seen += 1
    assert seen
    kept = {each.scope.player for each in records.values() if each.kind == "note" and each.status == "active"}
    assert kept == {name for name, each in records.items() if name in births and each.status == "active"} & kept
    assert len(kept) == 4  # the survivors; their children have lived through nothing yet


def test_statements_are_answered_after_the_situations_were_lived_through_and_not_remembered(judged: Path) -> None:
    with memory_of(judged) as memory:
        notes = [record for record in memory.records().values() if record.kind == "note"]
        answered = [
            each.trajectories[0]
            for each in memory.ledger.episodes(phase="train")
            if "kind:statement" in each.trajectories[0].task.tags
        ]
    assert notes
    assert not [note for note in notes if "Statement" in note.text]
    assert len(answered) == 2 * 4 * 2
    for trajectory in answered:
        profile, note = (each.record for each in trajectory.recalled)
        (own,) = [each for each in notes if each.id == note]
        assert (own.scope.player, own.generation) == (profile, trajectory.generation)


def test_a_judge_s_marks_decide_and_are_kept_with_their_reasons(judged: Path) -> None:
    known, first = individuals(judged), rows(judged)[0]
    expected = {name: float(way_of(traits_of(known[name].text), "surplus") == 0) for name in first["fitness"]}
    assert first["fitness"] == expected
    assert len(set(expected.values())) == 2
    with memory_of(judged) as memory:
        reasons = [event.payload["reasons"] for event in memory.ledger.events() if event.kind == "update"]
    assert reasons
    assert all("because I saw it" in each for each in reasons)


# -- what may go wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", ["", "\x00\n- \n", "no numbers " * 200, "99, 98, 1000000000000"])
def test_replies_that_say_nothing_cost_nobody_its_life_or_its_genome(tmp_path: Path, garbage: str) -> None:
    said = ScriptedChatModel(lambda messages: garbage)
    run = play(
        tmp_path / "run",
        small(1, observer="judge", mutation_rate=1),
        {"actor": said, "breeder": said, "judge": said},
    )
    assert [len(row["fitness"]) for row in rows(run)] == [4]
    assert [row["best_fitness"] for row in rows(run)] == [0]
    children = [each for each in individuals(run).values() if each.parents]
    assert len(children) == 2
    assert not any(child.meta["chosen"] for child in children)
    assert all(2 <= len(traits_of(child.text)) <= 10 for child in children)


def test_a_judge_who_cannot_be_reached_for_one_gives_it_the_mean_of_the_others(tmp_path: Path) -> None:
    replies = iter(["1: 10", "No mark.", "1: 4", "1: 1", *["1: 5"] * 4])
    judge = ScriptedChatModel(lambda messages: next(replies))
    run = play(
        tmp_path / "run",
        small(1, observer="judge"),
        {"actor": villager(), "breeder": breeder(), "judge": judge},
    )
    assert sorted(rows(run)[0]["fitness"].values()) == pytest.approx([0, 1 / 3, (1 + 1 / 3) / 3, 1])


def test_a_run_that_was_killed_anywhere_goes_on_and_asks_nothing_again(judged: Path, tmp_path: Path) -> None:
    run, asked = tmp_path / "run", 0

    def deadly(reply: Callable[[str], str], *fatal: int) -> ScriptedChatModel:
        """Dies once at each of these calls of its own."""
        own = count(1)

        def answer(messages: Any) -> str:
            nonlocal asked
            asked += 1
            if next(own) in fatal:
                raise KeyboardInterrupt
            return reply(text(messages))

        return ScriptedChatModel(answer)

    # In an episode, in the last judgement of a period, in its last crossover, and in what comes after that.
    models = {"actor": deadly(acted, 9), "breeder": deadly(bred, 2, 4), "judge": deadly(marks, 4)}
    create(small(observer="judge").model_copy(update={"concurrency": 1}), run)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run_sync(execute(run, models=models))
    run_sync(execute(run, models=models))
    assert asked == len(calls(judged)) + 4
    told = ("fitness", "scores", "fittest", "diversity", "population")
    whole, resumed = ([{key: row[key] for key in told} for row in rows(each)] for each in (judged, run))
    names = [{each["individual"] for each in some[-1]["population"]} for some in (whole, resumed)]
    assert names[0] == names[1]
    for some in (*whole, *resumed):
        some.pop("population")  # their commits have times
    assert resumed == whole
    assert result(run)["finished"]


def test_a_judge_needs_a_world_whose_norms_can_be_told(tmp_path: Path) -> None:
    run = small(observer="judge").model_copy(update={"environment": "systems.signs:Signs", "options": {}})
    with pytest.raises(SetupError, match="Set observer=rules"):
        play(tmp_path / "run", run, {"actor": villager()})


# -- the graph ---------------------------------------------------------------------------------------------------------


def test_each_phase_is_a_node(judged: Path) -> None:
    period = ["tasks", "live", "remember", "questionnaire", "observe", "select", "crossover", "mutate", "evaluate"]
    assert visited(judged) == ["initialise", "baseline", *period, *period]


def test_every_individual_is_a_whole_model_that_can_be_named_again(evolved: Path) -> None:
    known = individuals(evolved)
    for row in rows(evolved):
        assert len(row["population"]) == 12
        assert all(each["individual"] in known and each["memory"] for each in row["population"])
    history = json.loads(json.dumps(known[rows(evolved)[-1]["fittest"]].meta["fitness"]))
    assert [*history] == [str(period) for period in range(min(map(int, history)), 1 + PERIODS)]


def test_the_small_preset_stays_within_a_hundred_calls(tmp_path: Path) -> None:
    run = RunConfig(
        recipe="evolutionary-agent", environment="society", tasks=4, evaluated=8, generations=2, embedder="hash"
    )
    played = play(tmp_path / "run", run, {"actor": villager(), "breeder": breeder()})
    assert len(calls(played)) <= 100
    assert PRESETS["paper"].population == 10
    assert PRESETS["paper"].surviving == 5
