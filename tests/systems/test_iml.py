"""IML's signature, line by line, through whole runs."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import ceil, log
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
from systems.runs import calls, generations, memory_of, play, prompt, visited

from evolvent.agents.models.scripted import Messages, ScriptedChatModel, ScriptedScorer
from evolvent.agents.run import RunConfig, result
from evolvent.environments.creatures import TRAITS, class_names, oracle_notes
from evolvent.environments.types import Trajectory
from evolvent.memory.types import Record

_SIDES = {word: (trait.name, side) for trait in TRAITS for side, words in enumerate(trait.sides) for word in words}
_PLAIN = {(trait.name, side): words[0] for trait in TRAITS for side, words in enumerate(trait.sides)}
Counts = Mapping[tuple[str, int], int]
"""How often a trait was met on a side."""


def config(
    tasks: int = 24, evaluated: int = 8, generations: int = 1, seed: int = 0, world: int = 0, **settings: Any
) -> RunConfig:
    return RunConfig(
        recipe="iml",
        environment="creatures",
        options={"world": world},
        tasks=tasks,
        evaluated=evaluated,
        generations=generations,
        seed=seed,
        settings={"minibatch": 3, **settings},
        embedder="hash",
    )


def reader(
    *,
    induce: Callable[[str], str] = lambda said: induced(said),
    revise: Callable[[str], str] = lambda said: revised(said),
) -> ScriptedChatModel:
    """Knows what adjectives mean, counts them, adds up where it is told what counts rest on, and guesses fairly."""

    def reply(messages: Messages) -> str:
        said = "\n".join(str(message.text) for message in messages)
        if "Sum up in a few sentences" in said:
            return induce(said)
        return revise(said) if "Adjust the note" in said else f"Finish[{answered(said)}]"

    return ScriptedChatModel(reply)


def induced(said: str) -> str:
    earlier = re.search(r"earlier ones showed:\n(.+)", said)
    counts = Counter(counted(earlier[1]) if earlier else {})
    for case in re.findall(r"^- (.+): right$", said, re.MULTILINE):
        counts.update(_SIDES[word] for word in re.findall(r"\w+", case) if word in _SIDES)
    return told(counts)


def revised(said: str) -> str:
    parts = re.search(r"The note on .+?:\n(.+)\nNew findings:\n(.+)\nAdjust", said, re.DOTALL)
    assert parts
    old, new = (counted(each) for each in parts.groups())
    return told(Counter(old) + Counter(new) if "rests on" in said else new)


def told(counts: Counts) -> str:
    return "; ".join(" ".join(f"{_PLAIN[name, at]} {counts.get((name, at), 0)}" for at in (0, 1)) for name in _names())


def counted(text: str) -> Counts:
    """Where something is said twice the last word counts; a true note has no numbers, and no doubt."""
    found = re.findall(r"([a-z]+)(?: (\d+))?", text)
    return {_SIDES[word]: int(number or 9) for word, number in found if word in _SIDES}


def answered(said: str) -> str:
    (description,) = re.findall(r"^(.+)\nWhich creature is it\?", said, re.MULTILINE)
    seen = [_SIDES[word] for word in re.findall(r"\w+", description) if word in _SIDES]
    notes = dict(re.findall(r"^(Creature \w)(?: is|:) (.+)$", said, re.MULTILINE))
    fit = {name: sum(likely(counted(notes.get(name, "")), *each) for each in seen) for name in class_names()}
    best = [name for name, value in fit.items() if value > max(fit.values()) - 1e-9]
    return best[hashlib.sha256(description.encode()).digest()[0] % len(best)]


def likely(counts: Counts, name: str, side: int) -> float:
    met = [counts.get((name, at), 0) for at in (0, 1)]
    return log((met[side] + 1) / (sum(met) + 2))


def _names() -> list[str]:
    return [trait.name for trait in TRAITS]


def notes(run: Path) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.kind == "note"]


def answers(run: Path, generation: int) -> list[Trajectory]:
    with memory_of(run) as memory:
        every = [episode.trajectories[0] for episode in memory.ledger.episodes(phase="train", generation=generation)]
    return every


def right(run: Path, generation: int) -> Counter[str]:
    """Right answers by class."""
    return Counter(each.steps[0].action.text for each in answers(run, generation) if each.outcome.success)


def shown(run: Path, **which: Any) -> list[str]:
    """The notes in the prompts of these answers."""
    found = [re.search(r"^Notes:\n(.+)\n.+\nWhich creature", prompt(row), re.M | re.S) for row in calls(run, **which)]
    return [each[1] if each else "" for each in found]


def body(text: str) -> str:
    """A note without its class."""
    return text.split(": ", 1)[1]


SEEDS = 3
STEPS = (1, 2, 3, 4)
Runs = Callable[[int, int], Path]
"""Played once for each seed and momentum."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("iml")

    @functools.cache
    def played(seed: int, momentum: int) -> Path:
        asked = config(tasks=20, evaluated=24, generations=len(STEPS), seed=seed, world=seed, momentum=momentum)
        return play(folder / f"{seed}-{momentum}", asked, {"actor": reader()})

    return played


@pytest.fixture(scope="module")
def plain(runs: Runs) -> Path:
    return runs(0, 8)


@pytest.fixture(scope="module")
def free(runs: Runs) -> Path:
    return runs(0, 0)


@pytest.mark.signature("iml", 0)
def test_a_step_is_shown_the_notes_of_the_step_before_it_and_no_trajectory(plain: Path) -> None:
    assert set(shown(plain, phase="train", generation=1, purpose="act")) == {"no idea"}
    for step in STEPS[1:]:
        before = [note for note in notes(plain) if note.meta["step"] == step - 1]
        told = "\n".join(note.text for note in sorted(before, key=lambda note: note.meta["order"]))
        assert set(shown(plain, phase="train", generation=step, purpose="act")) == {told}
        own, earlier = ({each.task.prompt for each in answers(plain, at)} for at in (step, step - 1))
        prompts = "\n".join(prompt(row) for row in calls(plain, generation=step, phase="train"))
        assert any(text in prompts for text in own)
        assert not [text for text in earlier - own if text in prompts]


@pytest.mark.signature("iml", 1)
def test_notes_change_at_the_end_of_a_step_alone(plain: Path) -> None:
    seen = [shown(plain, phase="train", generation=step, purpose="act") for step in STEPS]
    assert [len(each) for each in seen] == [20] * len(STEPS)
    assert [len({*each}) for each in seen] == [1] * len(STEPS)
    assert len({each[0] for each in seen}) == len(STEPS)
    with memory_of(plain) as memory:
        changed = {
            commit.key
            for commit in memory.ledger.commits()
            if any(event.record_id.startswith("note-") for event in memory.ledger.events_of(commit.id))
        }
    assert changed == {f"{step}/remember" for step in STEPS}
    rounds = [ceil(max(right(plain, step).values()) / 3) for step in STEPS]
    steps = [["tasks", "infer", *["induce"] * each, "revise", "remember", "gate", "evaluate"] for each in rounds]
    assert visited(plain) == ["baseline", *itertools.chain(*steps)]


@pytest.mark.signature("iml", 2)
def test_each_class_is_gone_over_in_minibatches_that_carry_what_was_found(plain: Path) -> None:
    for step in STEPS:
        by_class: dict[str, list[dict[str, Any]]] = {}
        for row in calls(plain, generation=step, purpose="induce"):
            (label,) = re.findall(r"answered with (.+?), some", prompt(row))
            by_class.setdefault(label, []).append(row)
        assert {label: len(rows) for label, rows in by_class.items()} == {
            label: ceil(number / 3) for label, number in right(plain, step).items()
        }
        for label, (first, *later) in by_class.items():
            cases = [prompt(row).count(f"{label}: right") for row in (first, *later)]
            assert sum(cases) == right(plain, step)[label]
            assert "earlier ones showed" not in prompt(first)
            for row, before in zip(later, [first, *later], strict=False):
                assert f"earlier ones showed:\n{before['reply']}\n" in prompt(row)
    assert any(number > 3 for number in right(plain, STEPS[-1]).values())


@pytest.mark.signature("iml", 3)
def test_with_momentum_a_note_begins_as_it_began_and_counts_are_told(plain: Path, free: Path) -> None:
    for run, momentum in ((plain, True), (free, False)):
        known = {note.id: note for note in notes(run)}
        pairs = [(known[note.parents[0]], note) for note in known.values() if note.parents[0] in known]
        assert pairs
        begins = [body(new.text).split()[:8] == body(old.text).split()[:8] for old, new in pairs]
        assert all(begins) if momentum else not any(begins)
        asked = calls(run, purpose="revise")
        seen: Counter[str] = Counter()
        for row in asked:
            (label,) = re.findall(r"The note on (.+):", prompt(row))
            new = right(run, row["generation"])[label]
            stated = f"The note rests on {seen[label]} samples, the findings on {new}" in prompt(row)
            assert stated if momentum else "rests on" not in prompt(row)
            seen[label] += new
        assert {note.meta["class"]: note.meta["seen"] for note in notes(run) if note.status == "active"} == seen


@pytest.mark.signature("iml", 4)
def test_what_would_have_been_right_is_told_nowhere_even_where_the_world_tells_it(tmp_path: Path) -> None:
    asked = config(tasks=12, generations=2).model_copy(update={"environment": "moderation"})

    def reply(messages: Messages) -> str:
        said = str(messages[-1].text)
        return "It depends." if "Sum up" in said or "Adjust" in said else "Finish[A]"

    run = play(tmp_path / "run", asked, {"actor": ScriptedChatModel(reply)})
    told = [*calls(run, purpose="induce"), *calls(run, purpose="revise")]
    wrong = [each for step in (1, 2) for each in answers(run, step) if not each.outcome.success]
    assert any("It goes to queue B" in each.steps[0].result for each in wrong)
    marked = [line for row in told for line in prompt(row).splitlines() if any(w.task.prompt in line for w in wrong)]
    assert marked
    assert all(line.endswith(" A: wrong") for line in marked)
    assert not [row for row in told if re.search(r"\b[BC]\b|goes to", prompt(row))]
    assert {note.meta["class"] for note in notes(run)} == {"A"}


@pytest.mark.signature("iml", 5)
def test_with_true_notes_the_reader_is_at_its_ceiling_from_the_first_step_on(tmp_path: Path, plain: Path) -> None:
    told = config(initial_notes=oracle_notes(0))
    run = play(tmp_path / "run", told, {"actor": reader()})
    first, step = generations(run)
    assert fmean(step["stream"].values()) == 1
    assert fmean(score for (score,) in first["scores"].values()) == 1
    assert fmean(generations(plain)[1]["stream"].values()) < 0.5
    assert {(row["model"]["base"], row["model"]["adapter"]) for row in generations(run)} == {("smollm2", "")}


def held_out(run: Path) -> list[float]:
    return [fmean(score for (score,) in row["scores"].values()) for row in generations(run)]


def unsteady(accuracies: Iterable[float]) -> float:
    return pstdev(after - before for before, after in itertools.pairwise(accuracies))


def test_notes_teach_and_momentum_steadies_them(runs: Runs) -> None:
    """The card's comparison, its reader certain with true notes (the test above): oracle > IML > frozen."""
    by_momentum = {each: [held_out(runs(seed, each)) for seed in range(SEEDS)] for each in (0, 8)}
    free, steady = (fmean(fmean(found[-2:]) for found in by_momentum[each]) for each in (0, 8))
    frozen = fmean(found[0] for found in by_momentum[8])
    assert 1 > steady > free > frozen + 0.2
    free, steady = (fmean(unsteady(found[1:]) for found in by_momentum[each]) for each in (0, 8))
    assert steady < free


def test_notes_that_say_nothing_bring_no_improvement(tmp_path: Path) -> None:
    """The negative control."""
    idle = reader(induce=lambda said: "Who knows.", revise=lambda said: "Who knows.")
    run = play(tmp_path / "run", config(generations=2), {"actor": idle})
    assert {body(note.text) for note in notes(run)} == {"Who knows."}
    assert generations(run)[-1]["copied"] > 0
    assert not [note for note in notes(run) if note.id in note.parents]
    assert result(run)["verdict"] != "improved"


def test_empty_replies_lose_no_note(tmp_path: Path) -> None:
    steps = iter("x" * 4)

    def once(said: str) -> str:
        return revised(said) if next(steps, "") else ""

    run = play(tmp_path / "run", config(generations=2), {"actor": reader(revise=once)})
    first = {note.id for note in notes(run) if note.meta["step"] == 1}
    assert first
    assert first <= {note.id for note in notes(run) if note.status == "active"}
    mute = play(tmp_path / "mute", config(tasks=12), {"actor": reader(induce=lambda said: "")})
    assert notes(mute) == calls(mute, purpose="revise") == []


def test_options_that_can_be_scored_are_chosen_and_need_no_form(tmp_path: Path) -> None:
    model = ScriptedScorer(lambda messages: "Small.", score=lambda messages, options: [-len(each) for each in options])
    run = play(tmp_path / "run", config(tasks=8), {"actor": model})
    acted = calls(run, phase="train", purpose="act")
    assert {tuple(row["options"]) for row in acted} == {tuple(f"It is {name}." for name in class_names())}
    assert not [row for row in acted if "winter" in prompt(row)]
    assert {note.text for note in notes(run)} == {"Creature A: Small."}


def test_with_proof_a_note_waits_for_the_gate(tmp_path: Path) -> None:
    asked = config(tasks=40, prove=True, gate_pairs=16, false_discoveries=0.2)
    run = play(tmp_path / "run", asked, {"actor": reader()})
    with memory_of(run) as memory:
        judged = [e for c in memory.ledger.commits() for e in memory.ledger.events_of(c.id) if "gate" in e.payload]
    assert {event.record_id for event in judged} == {note.id for note in notes(run)}
    assert {event.kind for event in judged} <= {"activate", "reject"}
    assert {note.status for note in notes(run)} <= {"active", "retired"}
