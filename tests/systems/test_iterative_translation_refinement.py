"""Iterative translation refinement's signature, line by line, through whole runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.problems import questions
from systems.runs import calls, generations, handed_in, play, prompt, visited

from evolvent.agents.feedback.quality_estimate import quality_estimates
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.iterative_translation_refinement import BAD, BETTER, PARAPHRASE, PRESETS
from evolvent.agents.run import RunConfig, result
from evolvent.environments.toy_language import language
from evolvent.environments.translation import Translation, native, reference, source
from evolvent.environments.types import Split, Task
from evolvent.memory.embedding import HashEmbedder


def config(tasks: int = 2, environment: str = "translation", **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="iterative-translation-refinement",
        environment=environment,
        tasks=tasks,
        generations=1,
        settings={"rounds": 3, **settings},
        embedder="hash",
    )


def text_of(messages: list[BaseMessage]) -> str:
    return "\n".join(str(message.text) for message in messages)


def shown_in(messages: list[BaseMessage]) -> str:
    """The translation that is to be made better; empty where there is none."""
    lines = str(messages[-1].text).splitlines()
    if lines[-2:-1] == [PARAPHRASE.splitlines()[0]]:
        return lines[-1]
    return lines[-2] if lines[-1] in (BETTER.splitlines()[1], BAD.splitlines()[1]) else ""


def translator(tasks: list[Task], version: Callable[[Task, int], str]) -> ScriptedChatModel:
    """Whose k-th translation of a text is `version(text, k)`, whatever it is shown beside the text."""
    asked = {task.id: 0 for task in tasks}

    def reply(messages: list[BaseMessage]) -> str:
        task = next(task for task in tasks if source(task) in text_of(messages))
        asked[task.id] += 1
        return version(task, asked[task.id] - 1)

    return ScriptedChatModel(reply)


def word(task: Task, number: int) -> str:
    return f"zz{task.id[-4:]}v{number}"


@pytest.mark.signature("iterative-translation-refinement", 0)
@pytest.mark.parametrize("variant", ["refine", "contrast"])
def test_a_round_sees_the_text_and_the_version_before_it_and_nothing_else(tmp_path: Path, variant: str) -> None:
    tasks = questions(config())
    run = play(tmp_path / "run", config(variant=variant), {"actor": translator(tasks, word)})
    for task in tasks:
        made = calls(run, purpose="refine", task=task.id)
        assert len(made) == 3
        for number, row in enumerate(made, start=1):
            assert source(task) in prompt(row)
            assert [f"v{each}" in prompt(row) for each in range(4)] == [each == number - 1 for each in range(4)]
            assert [message["role"] for message in row["messages"]] == ["system", "user"], "a fresh prompt of one turn"
            assert "chrF" not in prompt(row), "what the environment says of a translation"


@pytest.mark.signature("iterative-translation-refinement", 1)
def test_each_text_costs_one_call_and_the_rounds_or_just_the_rounds(tmp_path: Path) -> None:
    tasks = questions(config())
    run = play(tmp_path / "own", config(), {"actor": translator(tasks, word)})
    given = {source(tasks[0]): "guze muse"}
    supplied = play(tmp_path / "given", config(first=given), {"actor": translator(tasks, word)})
    for task, first in ((tasks[0], 0), (tasks[1], 1)):
        assert [row["purpose"] for row in calls(run, task=task.id)] == ["translate"] + ["refine"] * 3
        assert [row["purpose"] for row in calls(supplied, task=task.id)] == ["translate"] * first + ["refine"] * 3
    assert "guze muse" in prompt(calls(supplied, purpose="refine", task=tasks[0].id)[0])
    (own, other) = (generations(each)[0]["frozen_scores"][tasks[0].id] for each in (run, supplied))
    assert own != other, "the supplied translation is what the result is compared with"


@pytest.mark.signature("iterative-translation-refinement", 2)
def test_a_variant_changes_the_prompt_and_nothing_else(tmp_path: Path) -> None:
    task, *_ = tasks = questions(config(tasks=1))
    others = {reference(other) for other in Translation().tasks("validation", 8, 0)}
    made = {}
    for variant in ("refine", "contrast", "random", "paraphrase"):
        said = ScriptedChatModel([word(task, number) for number in range(4)])
        run = play(tmp_path / variant, config(tasks=1, variant=variant), {"actor": said})
        made[variant] = [prompt(row) for row in calls(run)]
        assert [row["purpose"] for row in calls(run)] == ["translate"] + ["refine"] * 3
    assert len({prompts[0] for prompts in made.values()}) == 1
    rounds = {variant: prompts[1:] for variant, prompts in made.items()}
    assert [all(source(tasks[0]) in each for each in rounds[variant]) for variant in rounds] == [True] * 3 + [False]
    assert not any(source(task) in each or "Dictionary" in each for each in rounds["paraphrase"])
    assert ["bad translation" in rounds[variant][0] for variant in rounds] == [False, True, True, False]
    for variant, prompts in rounds.items():
        assert sum(any(other in each for other in others) for each in prompts) == (variant == "random")
        assert [word(task, number) in each for number, each in enumerate(prompts)] == [variant != "random", True, True]


class Noise(Translation):
    """The same texts with references that mean nothing."""

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        return [replace(task, data={**task.data, "reference": "xyz"}) for task in super().tasks(split, n, seed)]


@pytest.mark.signature("iterative-translation-refinement", 3)
def test_noise_for_references_changes_no_choice(tmp_path: Path) -> None:
    tasks = questions(config(tasks=4))

    def version(task: Task, number: int) -> str:
        """The best of them comes in a round that depends on the text."""
        good = int(task.id[-1], 16) % 4
        return native(task) if number == good else word(task, number)

    rows = []
    for environment in ("translation", f"{__name__}:Noise"):
        run = play(tmp_path / environment[:5], config(4, environment), {"actor": translator(tasks, version)})
        (row,) = generations(run)
        rows.append(row)
        assert sorted(handed_in(run)) == sorted(map(native, tasks))
    assert rows[0]["selections"] == rows[1]["selections"]
    assert len({told["chosen"] for told in rows[0]["selections"].values()}) > 1
    assert rows[0]["scores"] != rows[1]["scores"]


@pytest.mark.signature("iterative-translation-refinement", 4)
@pytest.mark.parametrize(("stopping", "rounds"), [(False, 3), (True, 2)])
def test_the_same_words_twice_end_the_work_only_where_that_was_asked(
    tmp_path: Path, stopping: bool, rounds: int
) -> None:
    tasks = questions(config())
    actor = translator(tasks, lambda task, number: word(task, min(number, 1)))
    run = play(tmp_path / "run", config(stop_at_fixed_point=stopping), {"actor": actor})
    assert [len(calls(run, purpose="refine", task=task.id)) for task in tasks] == [rounds, rounds]


def test_each_round_is_a_visit_of_the_same_node(tmp_path: Path) -> None:
    tasks = questions(config())
    run = play(tmp_path / "run", config(), {"actor": translator(tasks, word)})
    assert visited(run) == ["tasks", "translate", *["refine"] * 3, "select", "submit", "evaluate"]


def test_chatter_stays_out_of_the_next_round_and_silence_replaces_nothing(tmp_path: Path) -> None:
    said = ScriptedChatModel(['Here is the translation: "guze muse"\n\nNote: I took the first.', "", "nara"])
    run = play(tmp_path / "run", config(tasks=1, rounds=2, selection="last"), {"actor": said})
    for row in calls(run, purpose="refine"):
        assert "\nguze muse\n" in prompt(row)
        assert "Here is" not in prompt(row)
    assert handed_in(run) == ["nara"]
    mute = play(tmp_path / "mute", config(tasks=1), {"actor": ScriptedChatModel(["", "", "nara", "feva"])})
    first, second, third, fourth = (prompt(row) for row in calls(mute))
    assert first == second == third, "with nothing to be made better the text is translated again"
    assert "nara" in fourth


def test_a_real_language_is_judged_by_how_near_text_and_translation_are() -> None:
    task = Task("t", "the red fox", "translation", {"source": "the red fox", "lexicon": {}})
    same, near, far, none = quality_estimates(task, ["the red fox", "a red fox", "bread", ""], HashEmbedder())
    assert same == pytest.approx(1)
    assert 1 > near > far >= none == 0


def test_paper_preset_has_four_rounds_and_no_extension() -> None:
    assert (PRESETS["paper"].rounds, PRESETS["paper"].variant) == (4, "refine")
    assert not PRESETS["paper"].stop_at_fixed_point


# -- what it is worth --------------------------------------------------------------------------------------------------


def polisher(tasks: list[Task], seed: int) -> ScriptedChatModel:
    """Translates word by word at first; of a translation it is shown it puts one awkward or wrong word right.

    Without the text it cannot know what is meant, and any of its words may become any other of the language.
    """
    toy = language(0)
    words = [form for forms in toy.lexicon.values() for form in forms]

    def reply(messages: list[BaseMessage]) -> str:
        shown = shown_in(messages).split()
        rng = random.Random(f"{seed}/{text_of(messages)}")
        task = next((task for task in tasks if source(task) in text_of(messages)), None)
        if task is None:
            shown[rng.randrange(len(shown))] = rng.choice(words)
            return " ".join(shown)
        if not shown:
            return reference(task)
        wanted = native(task).split()
        places = [at for at in range(len(wanted)) if shown[at : at + 1] != wanted[at : at + 1]]
        if places:
            at = rng.choice(places)
            shown[at : at + 1] = [wanted[at]]
        return " ".join(shown)

    return ScriptedChatModel(reply)


def test_refinement_makes_a_text_more_natural_and_less_like_the_reference_and_loses_nothing(tmp_path: Path) -> None:
    """The card's toy pair: 100 sentences, a literal translator that polishes, one word a round."""
    run_of = config(tasks=100, selection="last")
    run = play(tmp_path / "run", run_of, {"actor": polisher(questions(run_of), 1)})
    (row,) = generations(run)
    rounds = row["measures"]
    assert [each["adequacy"] for each in rounds] == [1.0] * 4
    for one, other in pairwise(rounds):
        assert other["bleu"] < one["bleu"]
        assert other["fluency"] > one["fluency"]
    assert rounds[-1]["fluency"] > 3 * rounds[0]["fluency"]
    assert result(run)["verdict"] != "improved", "by chrF alone it does harm"
    assert len(calls(run)) == 100 * 4


def test_without_the_text_the_meaning_drifts_and_the_estimate_turns_back(tmp_path: Path) -> None:
    """The controls: paraphrase, and an unrelated sentence to begin with."""
    run_of = config(tasks=24, variant="paraphrase")
    run = play(tmp_path / "paraphrase", run_of, {"actor": polisher(questions(run_of), 1)})
    (row,) = generations(run)
    adequacy = [each["adequacy"] for each in row["measures"]]
    assert adequacy == sorted(adequacy, reverse=True)
    assert adequacy[-1] < 0.7
    chosen = [told["chosen"] for told in row["selections"].values()]
    assert chosen.count(0) > 12
    unrelated = config(tasks=24, variant="random")
    run = play(tmp_path / "random", unrelated, {"actor": polisher(questions(unrelated), 1)})
    assert generations(run)[0]["measures"][-1]["adequacy"] < 0.9, "a poor seed is not mended in three rounds"
