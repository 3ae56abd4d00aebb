"""Long dialogues: what a listener with notes would answer is the truth, old answers are noticed, splits are apart."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import permutations

import pytest

from evolvent.environments.dialogue import Dialogue, day_of, holders, speaker, turn_id
from evolvent.environments.dialogue_topics import (
    ASKED_BEFORE,
    ASKED_DAY,
    CORRECTED,
    POOLS,
    SMALL_TALK,
    STOCKS,
    TOPICS,
)
from evolvent.environments.dialogue_world import KINDS, NOT_TOLD, history
from evolvent.environments.errors import BadOptionError
from evolvent.environments.qa import normal
from evolvent.environments.types import Action, Split, StepResult, Task

_SENTENCE = re.compile(r"(?<=[.?]) ")
HELD_OUT: tuple[Split, ...] = ("validation", "test")


def turns_of(days: int, **options: int) -> list[Task]:
    return [
        task
        for day in range(1, days + 1)
        for task in Dialogue(day=day, days=days, **options).tasks("train", options["turns"], 0)
    ]


def said(task: Task) -> tuple[list[str], str]:
    """The statements of a turn and its question."""
    *statements, question = _SENTENCE.split(task.prompt.split(": ", 1)[1])
    return statements, question


def most(world: Dialogue, split: Split) -> int:
    """How many held-out questions there are."""
    with pytest.raises(BadOptionError) as refused:
        world.tasks(split, 10**6, 0)
    found = re.search(r"has (\d+) ", str(refused.value))
    assert found is not None
    return int(found[1])


def answered(task: Task, reply: str) -> StepResult:
    world = Dialogue()
    world.reset(task, 0)
    return world.step({"agent": Action(reply)})


def one(tasks: list[Task], kind: str) -> Task:
    return next(task for task in tasks if task.data["kind"] == kind)


class Listener:
    """Somebody who writes down what one person says, from the wordings alone, and answers from these notes."""

    def __init__(self) -> None:
        self.told: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.stock: dict[str, int] = {}

    def hear(self, statement: str, day: int) -> bool:
        """Whether it told something."""
        heard = {(name, found[1]) for name, pattern in TELLING if (found := pattern.fullmatch(statement))}
        for name, value in heard:
            assert value not in [each for each, _ in self.told[name]]
            self.told[name].append((value, day))
        counted = [
            (things, int(found[1]), sign) for things, sign, one in COUNTING if (found := one.fullmatch(statement))
        ]
        for things, number, sign in counted:
            self.stock[things] = self.stock[things] + sign * number if sign else number
            assert self.stock[things] >= 2
        assert len(heard) + len(counted) <= 1
        return bool(heard or counted)

    def answers(self) -> dict[str, str]:
        """Question → the value. What is not in it was not told."""
        return dict(self._answers())

    def _answers(self) -> Iterator[tuple[str, str]]:
        for things, number in self.stock.items():
            yield from ((wording, str(number)) for wording in STOCKS[things].asked)
        for name, told in self.told.items():
            topic, before = TOPICS[name], ""
            for value, day in told:
                filled = {"clause": topic.clause.format(value), "noun": topic.noun, "value": value}
                for wording in ASKED_DAY:
                    yield _sentence(wording.format(**filled)), str(day)
                for wording in ASKED_BEFORE if before else ():
                    yield _sentence(wording.format(**filled)), before
                before = value
            yield from ((wording, before) for wording in topic.asked)


def _pattern(wording: str) -> re.Pattern[str]:
    return re.compile(re.escape(wording).replace("@", ".+").replace(r"\{\}", "(.+)"))


TELLING = [
    (name, _pattern(wording))
    for name, topic in TOPICS.items()
    for wording in (
        *topic.told,
        *topic.changed,
        *(each.format(now=topic.clause, before="@", old="@") for each in CORRECTED),
    )
]
COUNTING = [
    (things, sign, _pattern(wording))
    for things, stock in STOCKS.items()
    for wordings, sign in ((stock.told, 0), (stock.recounted, 0), (stock.up, 1), (stock.down, -1))
    for wording in wordings
]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", range(3))
def test_a_listener_who_takes_notes_finds_every_answer_and_no_answer_to_what_was_not_told(world: int) -> None:
    notes: dict[str, Listener] = defaultdict(Listener)
    kinds: Counter[str] = Counter()
    for task in turns_of(3, turns=30, characters=3, world=world):
        listener, (statements, question) = notes[speaker(task)], said(task)
        assert listener.answers().get(question, NOT_TOLD[0]) == task.data["answers"][0]  # from earlier turns alone
        for statement in statements:
            kinds["told" if listener.hear(statement, day_of(task)) else "small talk"] += 1
        assert listener.answers().get(question, NOT_TOLD[0]) == task.data["answers"][0]  # this turn does not change it
        kinds[task.data["kind"]] += 1
    assert set(kinds) == {*KINDS, "told", "small talk"}
    known = {name: listener.answers() for name, listener in notes.items()}
    for split in HELD_OUT:
        for task in Dialogue(turns=30, days=3, world=world).tasks(split, 200, 0):
            statements, question = said(task)
            assert not statements
            assert known[speaker(task)].get(question, NOT_TOLD[0]) == task.data["answers"][0]


def test_the_turn_that_holds_an_answer_says_it_and_is_an_earlier_one_of_the_same_person() -> None:
    turns = {turn_id(task): task for task in turns_of(3, turns=30, characters=3)}
    after = Dialogue(turns=30, days=3).tasks("test", 300, 0)
    order = list(turns)
    for task in (*turns.values(), *after):
        assert bool(holders(task)) is task.data["known"]
        for holder in holders(task):
            assert speaker(turns[holder]) == speaker(task)
            if turn_id(task):
                assert order.index(holder) < order.index(turn_id(task))
        if task.data["kind"] in ("plain", "changed", "before"):
            (holder,) = holders(task)
            assert task.data["answers"][0] in " ".join(said(turns[holder])[0])
        if task.data["kind"] == "day":
            (holder,) = holders(task)
            assert task.data["answers"][0] == str(day_of(turns[holder]))
        if task.data["kind"] == "count":
            assert 1 <= len(holders(task)) <= 5
            assert all(any(char.isdigit() for char in " ".join(said(turns[each])[0])) for each in holders(task))


def test_every_text_is_one_sentence() -> None:
    wordings = [text for topic in TOPICS.values() for text in (*topic.told, *topic.changed)]
    wordings += [text for stock in STOCKS.values() for text in (*stock.told, *stock.recounted, *stock.up, *stock.down)]
    questions = [text for topic in (*TOPICS.values(), *STOCKS.values()) for text in topic.asked]
    assert all(re.fullmatch(r"[^.?]+\.", text) for text in (*wordings, *CORRECTED, *SMALL_TALK))
    assert all(re.fullmatch(r"[^.?]+\?", text) for text in (*questions, *ASKED_DAY, *ASKED_BEFORE))
    assert not any(char in value for values in POOLS.values() for value in values for char in ".?{}")
    assert len(set(questions)) == len(questions) == 6 * 24


def test_a_longer_history_begins_as_a_shorter_one_does() -> None:
    assert history(3, 5, 10, 4).days[:2] == history(3, 2, 10, 4).days
    assert turns_of(5, turns=10, characters=4)[:20] == turns_of(2, turns=10, characters=4)
    assert turns_of(2, turns=10, characters=4) != turns_of(2, turns=10, characters=4, world=1)


def test_people_speak_in_turn_and_are_told_apart_by_a_tag() -> None:
    tasks = turns_of(2, turns=8, characters=3)
    names = [speaker(task) for task in tasks]
    assert names[:8] == names[8:] == [names[at % 3] for at in range(8)]
    assert [turn_id(task) for task in tasks] == [f"d{day}t{turn}" for day in (1, 2) for turn in range(1, 9)]
    assert [day_of(task) for task in tasks] == [1] * 8 + [2] * 8
    for task in tasks:
        assert task.prompt.startswith(f"{speaker(task)}, day {day_of(task)}: ")
        assert task.tags == ("user:" + "-".join(speaker(task).lower().split()),)
    assert len({speaker(task) for task in turns_of(1, turns=2, characters=5)}) == 2  # no more people than turns


def test_somebody_changes_something_every_day() -> None:
    for world in range(10):
        after = Dialogue(turns=4, days=2, characters=2, world=world).tasks("test", 40, 0)
        changed = {speaker(task) for task in after if task.data["kind"] == "changed"}
        assert len(changed) == 2
        assert all(task.data["stale"] for task in after if task.data["kind"] == "changed")


def test_what_one_person_told_is_a_wrong_answer_for_another() -> None:
    asked: dict[str, list[Task]] = defaultdict(list)
    for task in Dialogue(turns=60, days=2, characters=6).tasks("test", 500, 0):
        if task.data["kind"] in ("plain", "changed", "unknown"):
            asked[said(task)[1]].append(task)
    leaks = [
        (mine, theirs)
        for tasks in asked.values()
        for mine, theirs in permutations(tasks, 2)
        if theirs.data["known"] and mine.data["answers"][0] != theirs.data["answers"][0]
    ]
    assert len(leaks) > 100
    assert any(not mine.data["known"] for mine, _ in leaks)
    for mine, theirs in leaks:
        leaked = answered(mine, f"The answer is {theirs.data['answers'][0]}.")
        assert leaked.info["success"] is False
        assert leaked.rewards["agent"] < 1


def test_ten_thousand_turns_of_thirty_people_over_thirty_days_are_no_trouble() -> None:
    world = Dialogue(turns=334, days=30, day=30, characters=30)
    tasks = world.tasks("train", 334, 0)
    assert len({speaker(task) for task in tasks}) == len({task.tags for task in tasks}) == 30
    after = world.tasks("test", 3000, 0)
    oldest = [task for task in after if holders(task) and holders(task)[0].startswith("d1t")]
    assert len(oldest) > 50  # what was told on the first day is still asked for


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_the_turns_of_a_day_come_in_their_order_whatever_the_seed() -> None:
    world = Dialogue(day=2)
    assert world.tasks("train", 12, 0) == world.tasks("train", 12, 99)
    assert world.tasks("train", 5, 0) == world.tasks("train", 12, 0)[:5]
    assert world.tasks("test", 50, 0) == Dialogue(day=1).tasks("test", 50, 0)  # held-out questions know no day


@pytest.mark.parametrize("world", range(12))
def test_there_are_a_hundred_questions_after_two_short_days_and_enough_after_the_shortest(world: int) -> None:
    for split in HELD_OUT:
        assert most(Dialogue(world=world), split) >= 100
        assert most(Dialogue(world=world, turns=4, characters=2), split) >= 40
        assert most(Dialogue(world=world, turns=1, days=1), split) >= 8


def test_no_question_has_the_same_words_in_two_splits() -> None:
    texts: dict[str, set[str]] = defaultdict(set)
    for world in range(3):
        texts["train"] |= {said(task)[1] for task in turns_of(4, turns=60, characters=4, world=world)}
        for split in HELD_OUT:
            tasks = Dialogue(turns=60, days=4, characters=4, world=world).tasks(split, 600, 0)
            texts[split] |= {said(task)[1] for task in tasks}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]


def test_held_out_questions_are_of_all_kinds_and_what_was_not_told_is_a_fifth_at_most() -> None:
    world = Dialogue(turns=30, days=3)
    assert [task.data["kind"] for task in world.tasks("test", 12, 4)] == [*KINDS] * 2
    every = Counter(task.data["kind"] for task in world.tasks("test", most(world, "test"), 0))
    assert 0 < every["unknown"] <= every.total() / 5


def test_nothing_is_asked_again_in_other_words_before_everything_was_asked_once() -> None:
    world = Dialogue(turns=30, days=3)
    tasks = [task for task in world.tasks("test", most(world, "test"), 0) if task.data["kind"] == "plain"]
    facts = [(speaker(task), holders(task), task.data["answers"][0]) for task in tasks]
    half = len(facts) // 2
    assert len(set(facts[:half])) == half
    assert set(facts[:half]) == set(facts[half:])


# -- answers -----------------------------------------------------------------------------------------------------------


def test_the_score_is_the_best_f1_and_an_old_answer_is_wrong_and_noticed() -> None:
    tasks = Dialogue(turns=30, days=3).tasks("test", 200, 0)
    task = one(tasks, "changed")
    now, old = task.data["answers"][0], task.data["stale"][0]
    right = answered(task, f"That was told. The answer is {now}.")
    assert (right.rewards["agent"], dict(right.info)) == (1.0, {"success": True, "stale": False})
    stale = answered(task, f"The answer is {old}.")
    assert dict(stale.info) == {"success": False, "stale": True}
    assert answered(task, "").info == {"success": False, "stale": False}
    both = answered(task, f"The answer is {now} or {old}")
    assert 0 < both.rewards["agent"] < 1
    assert both.info["success"] is False


def test_numbers_and_days_are_accepted_as_they_are_said() -> None:
    tasks = Dialogue(turns=30, days=3).tasks("test", 200, 0)
    count, day = one(tasks, "count"), one(tasks, "day")
    things = next(things for things in STOCKS if f"{count.data['answers'][0]} {things}" in count.data["answers"])
    for task, forms in ((count, ("{}", f"{{}} {things}")), (day, ("{}", "day {}", "On day {}."))):
        assert all(answered(task, form.format(task.data["answers"][0])).info["success"] for form in forms)
    assert not answered(day, str(int(day.data["answers"][0]) + 1)).info["success"]


@pytest.mark.parametrize("reply", ["I do not know.", "I don't know", "The answer is: unknown.", "You never told me."])
def test_what_was_not_told_is_answered_by_saying_so(reply: str) -> None:
    task = Dialogue().tasks("train", 1, 0)[0]
    assert task.data["known"] is False
    assert (answered(task, reply).rewards["agent"], answered(task, reply).info["success"]) == (1.0, True)
    known = one(Dialogue().tasks("test", 20, 0), "plain")
    assert (answered(known, reply).rewards["agent"], answered(known, reply).info["success"]) == (0.0, False)


def test_a_guess_at_what_was_not_told_is_worth_nothing_whatever_words_it_shares() -> None:
    task = Dialogue().tasks("train", 1, 0)[0]
    assert answered(task, "The answer is I know it").rewards["agent"] == 0.0
    assert len({normal(each) for each in NOT_TOLD}) == len(NOT_TOLD)


def test_the_expert_is_right_in_every_kind() -> None:
    for task in Dialogue(turns=30, days=3).tasks("validation", 60, 0):
        (reply,) = Dialogue().expert(task)
        assert answered(task, reply).info["success"] is True


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        Dialogue().step({})


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"day": 3}, "day is a whole number from 1 to 2, not 3"),
        ({"day": 0}, "day is a whole number from 1 to 2, not 0"),
        ({"days": "two"}, "days is a whole number from 1 to 100000, not 'two'"),
        ({"turns": 0}, "turns is a whole number from 1 to 100000, not 0"),
        ({"characters": 1.5}, "characters is a whole number from 1 to 1000, not 1.5"),
        ({"days": 1000, "turns": 1000}, "1000 days of 1000 turns are 1000000 turns, not 100000 at most"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], named: str) -> None:
    with pytest.raises(BadOptionError, match=f"dialogue: {named}"):
        Dialogue(**options)


def test_more_tasks_than_there_are_cannot_be_dealt() -> None:
    with pytest.raises(BadOptionError, match=r"a day has 12 turns, .* not 13\. Ask for fewer or set turns=13"):
        Dialogue().tasks("train", 13, 0)
    with pytest.raises(
        BadOptionError, match=r"world 0 has \d+ test questions after 2 days of 4 turns by 3 people, not 9"
    ):
        Dialogue(turns=4).tasks("test", 900, 0)
