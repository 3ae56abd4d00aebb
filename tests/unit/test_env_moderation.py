"""The stream of messages: one hidden rule decides each, in many wordings, and what else stands there does not."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import get_args

import pytest

from evolvent.environments.moderation import LABELS, RULES, Moderation, label_of_reply, rule_texts, rules
from evolvent.environments.types import Action, Split, StepResult, Task


def answered(task: Task, text: str, world: int = 0) -> StepResult:
    played = Moderation(world=world)
    played.reset(task, 0)
    return played.step({"agent": Action(text)})


def met(task: Task, world: int) -> list[int]:
    """Rules of a world with a wording in the message."""
    return [at for at, rule in enumerate(rules(world)) if any(wording in task.prompt for wording in rule.wordings)]


# -- rules and messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", range(12))
def test_each_message_meets_the_rule_that_decides_it_and_no_other(world: int) -> None:
    for split in get_args(Split):
        for task in Moderation(world=world).tasks(split, 60, 0):
            assert met(task, world) == [task.data["rule"]]
            assert task.data["label"] == rules(world)[task.data["rule"]].label


def test_a_reader_of_the_true_rules_is_always_right_and_one_of_another_worlds_rules_is_not() -> None:
    def accuracy(read: int) -> float:
        right = 0.0
        tasks = Moderation(world=1).tasks("test", 300, 0)
        for task in tasks:
            found = met(task, read)
            right += answered(task, rules(read)[found[0]].label if found else "A", world=1).rewards["agent"]
        return right / len(tasks)

    assert accuracy(1) == 1.0
    assert accuracy(2) < 0.6  # a third is chance


@pytest.mark.parametrize("world", range(20))
def test_a_world_has_six_rules_of_all_four_kinds_two_for_each_queue(world: int) -> None:
    texts = rule_texts(world)
    assert len(set(texts)) == RULES == 6
    conditions = [
        re.fullmatch(r"If the message (\w+) (?:\w+ )*.+, then it goes to queue [ABC]\.", each) for each in texts
    ]
    assert {condition[1] for condition in conditions if condition} == {"says", "comes", "is", "came"}
    assert Counter(rule.label for rule in rules(world)) == dict.fromkeys(LABELS, 2)
    assert all(wording in rule.text for rule in rules(world) for wording in rule.wordings)


def test_worlds_draw_different_rules() -> None:
    assert len({frozenset(rule_texts(world)) for world in range(30)}) == 30
    assert rule_texts(7) == rule_texts(7)


def test_rules_are_met_equally_often_from_the_first_messages_on() -> None:
    tasks = Moderation().tasks("train", 300, 0)
    assert sorted(task.data["rule"] for task in tasks[:RULES]) == list(range(RULES))
    assert set(Counter(task.data["rule"] for task in tasks).values()) == {50}


def test_a_rules_messages_differ_in_wording_order_and_all_that_does_not_decide() -> None:
    by_rule: dict[int, list[str]] = defaultdict(list)
    for task in Moderation().tasks("train", 300, 0):
        by_rule[task.data["rule"]].append(task.prompt)
    for rule, prompts in by_rule.items():
        assert all(any(wording in prompt for prompt in prompts) for wording in rules(0)[rule].wordings)
        assert len({frozenset(re.split(r"[:.] ?", prompt)) for prompt in prompts}) == len(prompts)
        assert len({prompt.split(".")[0] for prompt in prompts}) > 10


def test_no_distractor_tells_the_queue() -> None:
    queues: dict[str, Counter[str]] = defaultdict(Counter)
    for task in Moderation(world=4).tasks("train", 1200, 0):
        for sentence in re.findall(r"(?:The paper|The tone) is \w+", task.prompt):
            queues[sentence][task.data["label"]] += 1
    assert len(queues) == 12
    for often in queues.values():
        assert max(often.values()) / often.total() < 0.6  # a third each but for chance, about 100 messages a sentence


def test_no_message_stands_in_two_splits_and_each_holds_hundreds() -> None:
    prompts = [{task.prompt for task in Moderation().tasks(split, 400, 0)} for split in get_args(Split)]
    assert len(set.union(*prompts)) == 1200


def test_a_message_is_short_and_says_nothing_of_rules_or_queues() -> None:
    for task in Moderation().tasks("train", 200, 0):
        assert len(task.prompt) < 260
        assert "queue" not in task.prompt


# -- replies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("A", "A"),
        (" b.\n", "B"),
        ("**C**", "C"),
        ("queue b", "B"),
        ("B, because it came at noon.", "B"),
        ("C) the sender decides, not queue A", "C"),
        ("A message from a nurse goes to queue C.", "C"),
        ("It could be queue A or queue C. The answer is queue B because it says so.", "B"),
        ("It goes to queue A, not queue B.", "A"),
        ("The queue is C.", "C"),
        ("I would choose queue B here, yes, queue B.", "B"),
        ("A message came.", ""),
        ("The answer is A mystery", ""),
        ("queue A or queue B", ""),
        ("It says B somewhere.", ""),
        ("D", ""),
        ("", ""),
    ],
)
def test_a_free_reply_is_read_for_the_queue_it_settles_on(reply: str, label: str) -> None:
    assert label_of_reply(reply) == label


def test_the_right_queue_scores_and_a_mistake_is_told_it() -> None:
    (task,) = Moderation().tasks("test", 1, 0)
    right = task.data["label"]
    wrong = next(label for label in LABELS if label != right)
    good, bad = answered(task, f"It goes to queue {right}."), answered(task, wrong)
    assert (good.rewards, good.info, good.observations[0].text) == ({"agent": 1.0}, {"success": True}, "Right.")
    assert (bad.rewards, bad.info) == ({"agent": 0.0}, {"success": False})
    assert bad.observations[0].text == f"Wrong. It goes to queue {right}."
    assert bad.done
    nonsense = answered(task, "no idea at all").observations[0].text
    assert nonsense.startswith('"no idea at all" is not possible here')
    assert nonsense.endswith(f"It goes to queue {right}.")


def test_an_action_completes_a_sentence_of_the_rules_own_words() -> None:
    world = Moderation()
    (task,) = world.tasks("test", 1, 0)
    (seen,) = world.reset(task, 0)
    rule = rules(0)[task.data["rule"]]
    assert rule.text.lower().endswith(seen.frame.format(action=rule.label).lower())


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        Moderation().step({})
