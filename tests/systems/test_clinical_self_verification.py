"""Clinical self-verification's signature, line by line, through whole runs."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.problems import questions
from systems.runs import calls, generations, handed_in, memory_of, play, prompt, visited

from evolvent.agents.feedback.evidence import parse_evidence, supported
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.clinical_self_verification import CHAIN, PRESETS
from evolvent.agents.run import RunConfig, result
from evolvent.environments.clinical_notes import DEVICES, SYMPTOMS
from evolvent.environments.extraction import LABELS, key, parse_items, render_items, truth
from evolvent.environments.types import Task

Script = str | Callable[[str, list[str]], str]
"""A reply, or how it comes of the prompt and the names of the list in it."""
DISTRACTING = [name.removeprefix("a ").removeprefix("an ") for name in (*SYMPTOMS, *DEVICES)]


def config(tasks: int = 1, kind: str = "medications", **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="clinical-self-verification",
        environment="extraction",
        options={"kind": kind},
        tasks=tasks,
        generations=1,
        settings={"shots": 1, **settings},
        embedder="hash",
    )


def purpose(text: str) -> str:
    """Of a call, by how its prompt ends."""
    ends = {"The list:": "extract", "Right label:": "status"}
    if "Add what the list lacks" in text:
        return "verify"
    if text.endswith("The evidence:"):
        return "evidence"
    if (last := text.splitlines()[-1]) in ends:
        return ends[last]
    return "omission" if last.startswith("What does the list lack") else "prune"


def listed(text: str) -> list[str]:
    """Names of the list that a prompt asks about."""
    block = text.rpartition("The list:")[2] if "The list:" in text else text
    return [name for name in parse_items(block) if name != "none"]


def quoting(text: str, names: list[str]) -> str:
    """Each item with the sentence that names it."""
    return "\n".join(f'- {name} (active): "{name} it is."' for name in names)


def clerk(**scripts: Script) -> ScriptedChatModel:
    """Says so of each purpose; by default it finds nothing missed or wrong, and quotes every item."""
    known: dict[str, Script] = {"omission": "- none", "prune": "- none", "evidence": quoting, "status": "?", **scripts}

    def reply(messages: list[BaseMessage]) -> str:
        text = str(messages[-1].text)
        script = known[purpose(text)]
        return script if isinstance(script, str) else script(text, listed(text))

    return ScriptedChatModel(reply)


def named(task: Task) -> list[str]:
    return [item.name for item in truth(task)]


def bullets(*names: str) -> str:
    return render_items(dict.fromkeys(names, "active"))


def lists(run: Path, task: Task) -> dict[str, dict[str, str]]:
    """After each stage."""
    with memory_of(run) as memory:
        texts = [memory.ledger.memo(f"1/think/{task.id}/list/{number}") for number in range(len(CHAIN))]
    return {stage: json.loads(json.loads(text)["text"]) for stage, text in zip(CHAIN, texts, strict=True) if text}


@pytest.mark.signature("clinical-self-verification", 0)
@pytest.mark.parametrize("kind", ["medications", "trial_arms"])
def test_a_text_costs_four_calls_and_one_for_each_label(tmp_path: Path, kind: str) -> None:
    tasks = questions(config(2, kind))
    shown = {task.prompt: bullets(*named(task)[:2]) for task in tasks}
    actor = clerk(extract=lambda text, _: next(shown[note] for note in shown if note in text.rpartition("\n\n")[2]))
    run = play(tmp_path / "run", config(2, kind), {"actor": actor})
    for task in tasks:
        made = Counter(row["purpose"] for row in calls(run, task=task.id))
        statuses = {"status": 2} if kind == "medications" else {}
        assert made == {"extract": 1, "omission": 1, "prune": 1, "evidence": 1, **statuses}
    assert visited(run) == ["tasks", *CHAIN, "submit", "evaluate"]


@pytest.mark.signature("clinical-self-verification", 1)
def test_what_omission_adds_may_go_again_and_what_is_pruned_never_comes_back(tmp_path: Path) -> None:
    (task,) = questions(config())
    first, pruned, unproved, *_ = names = named(task)
    actor = clerk(
        extract=bullets(first),
        omission=bullets(pruned, unproved),
        prune=f"- {pruned.upper()}",
        evidence=quoting("", [first, pruned]) + f"\n- {unproved} (active): no evidence",
    )
    run = play(tmp_path / "run", config(), {"actor": actor})
    found = lists(run, task)
    assert [list(found[stage]) for stage in CHAIN] == [[first], names[:3], [first, unproved], [first], [first]]
    assert handed_in(run) == [f"- {first}: active"]
    assert pruned not in prompt(calls(run, purpose="evidence")[0]).rpartition("The list:")[2]


@pytest.mark.signature("clinical-self-verification", 2)
def test_every_item_of_the_answer_has_a_quote_and_without_evidence_it_is_none(tmp_path: Path) -> None:
    (task,) = questions(config())
    quoted, refused, forgotten, *_ = names = named(task)
    said = f'- {quoted.title()} (discontinued): "{quoted} was stopped"\n- {refused} (active): No evidence.'
    run = play(tmp_path / "run", config(), {"actor": clerk(extract=bullets(*names), evidence=said)})
    assert handed_in(run) == [f"- {quoted}: discontinued"]
    assert list(generations(run)[0]["quotes"].values()) == [{quoted: f"{quoted} was stopped"}]
    assert f'Quote: "{quoted} was stopped"' in prompt(calls(run, purpose="status")[0])
    for number, mute in enumerate(("", "I cannot tell.", bullets(*names))):
        run = play(tmp_path / str(number), config(), {"actor": clerk(extract=bullets(*names), evidence=mute)})
        ((answer,), (quotes,)) = handed_in(run), generations(run)[0]["quotes"].values()
        assert list(parse_items(answer)) == names
        assert quotes.keys() == set(names)
        assert all(quote in task.prompt and key(quote) == name for name, quote in quotes.items())
    assert forgotten in quotes


@pytest.mark.signature("clinical-self-verification", 3)
@pytest.mark.parametrize("kind", ["medications", "trial_arms"])
def test_after_the_omission_lists_only_become_shorter(tmp_path: Path, kind: str) -> None:
    tasks = questions(config(6, kind))
    run = play(tmp_path / "run", config(6, kind), {"actor": oracle(tasks, seed=2, echo=True)})
    shorter = Counter[str]()
    for task in tasks:
        found = {stage: set(items) for stage, items in lists(run, task).items()}
        assert found["extract"] <= found["omission"] >= found["prune"] >= found["evidence"] == found["status"]
        shorter += Counter(later for one, later in pairwise(CHAIN) if found[one] > found[later])
    assert shorter["prune"]
    assert shorter["evidence"]


@pytest.mark.signature("clinical-self-verification", 4)
def test_medications_are_pruned_by_their_names_alone_and_evidence_is_sought_in_the_text(tmp_path: Path) -> None:
    (task,), (abstract,) = questions(config()), questions(config(kind="trial_arms"))
    run = play(tmp_path / "run", config(), {"actor": clerk(extract=bullets(*named(task), "ankle rot"))})
    (asked,) = calls(run, purpose="prune")
    assert all(f"- {name}\n" in prompt(asked) for name in (*named(task), "ankle rot"))
    assert not [label for label in LABELS if label in prompt(asked)]
    assert not [part for part in task.prompt.split(". ") if part in prompt(asked)]
    assert task.prompt in prompt(calls(run, purpose="evidence")[0])
    assert "ankle rot" not in lists(run, task)["prune"], "the text does not name it"
    arms = play(tmp_path / "arms", config(kind="trial_arms"), {"actor": clerk(extract=bullets(*named(abstract)))})
    assert abstract.prompt in prompt(calls(arms, purpose="prune")[0])


@pytest.mark.signature("clinical-self-verification", 5)
@pytest.mark.parametrize(
    ("label", "said", "then"),
    [
        ("active", "Discontinued.", "discontinued"),
        ("active", "Right label: neither", "neither"),
        ("active", "stopped", "active"),
        ("active", "active or discontinued", "active"),
        ("active", "not active", "active"),
        ("discontinued", "", "discontinued"),
        ("neither", "active", "neither"),
    ],
)
def test_a_label_changes_to_one_of_three_words_and_neither_not_at_all(
    tmp_path: Path, label: str, said: str, then: str
) -> None:
    (task,) = questions(config())
    name, *_ = named(task)
    evidence = f'- {name} ({label}): "{name}"'
    run = play(tmp_path / "run", config(), {"actor": clerk(extract=bullets(name), evidence=evidence, status=said)})
    assert handed_in(run) == [f"- {name}: {then}"]
    assert len(calls(run, purpose="status")) == 1


def test_the_prompt_of_a_list_shows_solved_examples_and_no_check_does(tmp_path: Path) -> None:
    (task,) = questions(config())
    run = play(tmp_path / "run", config(shots=3), {"actor": clerk(extract=bullets(*named(task)))})
    solved = [prompt(row).count("year-old") for row in calls(run)]
    assert solved == [4] + [1 if row["purpose"] != "prune" else 0 for row in calls(run)[1:]]
    assert {row["role"] for row in calls(run) if row["purpose"] != "extract"} == {"verifier"}


def test_one_prompt_for_all_checks_adds_and_drops_by_one_reply(tmp_path: Path) -> None:
    (task,) = questions(config())
    first, second, third, *_ = named(task)
    said = f'- {first} (neither): "x"\n- {second} (active): no evidence\n- {third} (active): "y"\n- Gout: "z"'
    actor = clerk(extract=bullets(first, second), verify=said)
    run = play(tmp_path / "run", config(at_once=True), {"actor": actor})
    assert handed_in(run) == [f"- {first}: neither\n- {third}: active"]
    assert [row["purpose"] for row in calls(run)] == ["extract", "verify"]
    assert visited(run) == ["tasks", "extract", "verify", "submit", "evaluate"]


def test_an_invented_quote_counts_unless_quotes_are_checked() -> None:
    task = Task("t", "Takes codeine daily.", "extraction", tags=("medications",))
    items = {"codeine": "active", "digoxin": "active"}
    for quote, holds in (("takes CODEINE", True), ("Takes", False), ("He takes codeine", False)):
        reply = f'- codeine: active: "{quote}"\n- digoxin: "codeine"'
        assert list(supported(task, items, reply)) == ["codeine"], "the text does not name the other"
        assert list(supported(task, items, reply, check_quotes=True)) == ["codeine"] * holds


@pytest.mark.parametrize(
    ("line", "label", "quote"),
    [
        ('- x (active): "Takes x: daily."', "active", "Takes x: daily."),
        ("1. **x** - discontinued: “was discontinued”", "discontinued", "was discontinued"),
        ("- x (neither): allergic to x", "neither", "allergic to x"),
        ('- x: "Takes x"', "", "Takes x"),
        ("- x (active): No evidence.", "active", ""),
        ('- x: "no evidence"', "", ""),
        ("- x:", "", ""),
    ],
)
def test_evidence_is_read_however_it_is_written(line: str, label: str, quote: str) -> None:
    (read,) = parse_evidence(f"The evidence:\n{line}\nThat is all.").items()
    assert (read[0], read[1].label, read[1].quote) == ("x", label, quote)


@pytest.mark.parametrize("line", ["- x: active", "- x", "- x (active)", "", "no evidence"])
def test_a_line_that_quotes_nothing_is_not_evidence(line: str) -> None:
    assert parse_evidence(line) == {}


def test_paper_preset_has_five_shots_and_no_extension() -> None:
    assert PRESETS["paper"].shots == 5
    assert not PRESETS["paper"].check_quotes


# -- what it is worth --------------------------------------------------------------------------------------------------


def oracle(tasks: list[Task], seed: int, *, echo: bool = False) -> ScriptedChatModel:
    """Misses 30 % of the items and lists what is none for 20 % of them; every check is right in four cases of five.

    A check that spares a right item is surer, 95 %. The combined prompt gets the answers that the chain would get of
    what is missing, of the evidence and of the labels: the same errors, each made once.

    Args:
        echo: the evidence reply names everything that it ever saw, not the list alone.
    """

    def luck(*about: str) -> float:
        return random.Random("/".join((str(seed), *about))).random()

    def label(task: Task, name: str, sure: float) -> str:
        right: Mapping[str, str] = {item.name: item.label for item in truth(task)}
        true = right.get(key(name), "active")
        return true if luck("label", task.id, name) < sure else LABELS[(LABELS.index(true or "active") + 1) % 3]

    def missing(task: Task, names: list[str]) -> list[str]:
        return [name for name in named(task) if name not in names and luck("omission", task.id, name) < 0.8]

    def sound(task: Task, name: str, question: str) -> bool:
        return luck(question, task.id, name) < (0.95 if name in named(task) else 0.2)

    def bullet(task: Task, name: str) -> str:
        return f"- {name}: {label(task, name, 0.6)}"

    def evidence(task: Task, names: list[str]) -> str:
        return "\n".join(
            f'- {name} ({label(task, name, 0.6)}): "{name}"'
            if sound(task, name, "evidence")
            else f"- {name}: no evidence"
            for name in names
        )

    def reply(messages: list[BaseMessage]) -> str:
        text = str(messages[-1].text)
        what, names = purpose(text), listed(text)
        if what == "prune" and tasks[0].tags == ("medications",):
            out = [name for name in names if luck("prune", *names, name) < (0.8 if name in DISTRACTING else 0.05)]
            return bullets(*out) or "- none"
        task = max(tasks, key=lambda task: text.rfind(task.prompt))
        if what == "extract":
            found = [name for name in named(task) if luck("extract", task.id, name) < 0.7]
            wrong = [name for name in DISTRACTING if name in task.prompt][: len(named(task)) // 4 + 1]
            return "\n".join(bullet(task, name) for name in (*found, *wrong))
        if what == "omission":
            return "\n".join(bullet(task, name) for name in missing(task, names)) or "- none"
        if what == "prune":
            return bullets(*(name for name in names if not sound(task, name, "prune"))) or "- none"
        if what == "status":
            return label(task, text.rpartition("Medication: ")[2].splitlines()[0], 0.9)
        return evidence(task, [*names, *(missing(task, names) if what == "verify" or echo else ())])

    return ScriptedChatModel(reply)


def test_each_check_does_its_part_and_the_chain_beats_one_prompt(tmp_path: Path) -> None:
    """The card's simulation on 80 notes."""
    chain_of, short_of = config(80), config(80, at_once=True)
    chain = play(tmp_path / "chain", chain_of, {"actor": oracle(questions(chain_of), 1)})
    short = play(tmp_path / "short", short_of, {"actor": oracle(questions(short_of), 1)})
    stages, once = generations(chain)[0]["stages"], generations(short)[0]["stages"]["verify"]
    assert stages["omission"]["recall"] > stages["extract"]["recall"] + 0.15
    assert stages["prune"]["precision"] > stages["omission"]["precision"] + 0.05
    assert stages["evidence"]["precision"] > stages["prune"]["precision"] + 0.01
    assert stages["status"]["f1"] == max(each["f1"] for each in stages.values())
    assert stages["status"]["labels"] > stages["evidence"]["labels"] + 0.1
    assert stages["status"]["f1"] > once["f1"] > stages["extract"]["f1"]
    assert result(chain)["verdict"] == "improved"


def test_checks_that_know_nothing_gain_nothing(tmp_path: Path) -> None:
    """The negative control: nothing is added, and right and wrong items are dropped alike."""
    run_of = config(30)
    tasks = questions(run_of)
    able = oracle(tasks, 1)

    def reply(messages: list[BaseMessage]) -> str:
        text = str(messages[-1].text)
        what, names = purpose(text), listed(text)
        if what == "prune":
            return bullets(*(name for name in names if random.Random(text + name).random() < 0.3)) or "- none"
        if what == "evidence":
            return quoting(text, names)
        return "- none" if what == "omission" else str(able.invoke(messages).text)

    run = play(tmp_path / "run", run_of, {"actor": ScriptedChatModel(reply)})
    assert result(run)["verdict"] != "improved"
