from __future__ import annotations

import random
from pathlib import Path

import pytest

from evolvent.environments import catalog
from evolvent.environments.errors import BadOptionError
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.reasoning import REFUSED, ReasoningGym, answer_in
from evolvent.environments.types import Action, StepResult, Task

pytest.importorskip("reasoning_gym", reason='needs the extra: pip install "evolvent[reasoning]"')


def answered(world: ReasoningGym, task: Task, reply: str) -> StepResult:
    world.reset(task, 0)
    return world.step({"agent": Action(reply)})


@pytest.mark.parametrize(
    ("reply", "stated", "answer"),
    [
        ("7", "3", "7"),
        ("3 + 4 = 7", "3", "7"),
        ("The final answer to the given problem is 7.", "3", "7"),
        ("Let me see: 3 and 4.\nThe answer is:\n**7**", "3", "7"),
        ("The answer is 5. Wait.\nAnswer: 7", "3", "7"),
        ("I think <answer>5</answer>, no, <answer> 7 </answer>.", "3", "7"),
        ("There are 7 apples.", "3", "7"),
        ("$1,007$", "3", "1,007"),
        ("Either 7 or 8.", "3", "Either 7 or 8"),
        ("It is a knight.\nknave", "knight", "knave"),
        ("x = 4", "y = 3", "x = 4"),
        ("```\n1 2\n3 4\n```", "0 0\n0 0", "1 2\n3 4"),
        ("The answer is\n1 2\n3 4", "0 0\n0 0", "1 2\n3 4"),
        ("up\ndown", None, "up\ndown"),
        ("", "3", ""),
        ("\n \n", None, ""),
    ],
)
def test_the_answer_is_read_from_the_end_in_the_form_of_the_stated_one(
    reply: str, stated: str | None, answer: str
) -> None:
    assert answer_in(reply, stated) == answer


def test_the_default_is_a_sum_or_difference_of_two_one_digit_numbers() -> None:
    for task in ReasoningGym().tasks("train", 50, 0):
        one, sign, other, _ = task.prompt.rpartition(": ")[2].split()
        value = int(one) + int(other) if sign == "+" else int(one) - int(other)
        assert task.data["answer"] == str(value)
        assert max(int(one), int(other)) < 10


@pytest.mark.parametrize(
    ("reply", "score", "told"),
    [
        ("{answer}", 1.0, "That is right."),
        ("The answer is {answer}.0", 1.0, "That is right."),
        ("99", 0.0, "That is not right: the score is 0.00."),
        ("", 0.0, "There was no answer. Write it as the last line, or as <answer>…</answer>."),
    ],
)
def test_the_verifier_gives_the_reward(reply: str, score: float, told: str) -> None:
    world = ReasoningGym()
    task = world.tasks("train", 1, 0)[0]
    result = answered(world, task, reply.format(answer=task.data["answer"]))
    assert (result.rewards["agent"], result.observations[0].text) == (score, told)
    assert result.info["success"] is (score == 1.0)


def test_an_answer_that_is_partly_right_earns_a_part_and_no_success() -> None:
    world = ReasoningGym()
    task = world.tasks("train", 1, 0)[0]
    result = answered(world, task, f"Either {task.data['answer']} or 99.")
    assert 0 < result.rewards["agent"] < 1
    assert result.info["success"] is False


def test_a_level_of_the_curriculum_is_harder_and_options_go_over_it() -> None:
    easy, hard = (ReasoningGym(level=level).tasks("test", 20, 0) for level in (0, 3))
    assert max(len(task.prompt) for task in easy) < max(len(task.prompt) for task in hard)
    wide = ReasoningGym(level=3, min_terms=4, max_terms=4).tasks("test", 20, 0)
    assert {task.prompt.count(" + ") + task.prompt.count(" - ") for task in wide} == {3}


def test_a_generator_without_a_single_answer_judges_by_rule_and_has_no_expert() -> None:
    world = ReasoningGym(task="graph_color")
    (task,) = world.tasks("train", 1, 0)
    assert task.data["answer"] is None
    with pytest.raises(BadOptionError, match="graph_color states no answer"):
        world.expert(task)
    assert answered(world, task, "no colours").info["success"] is False


def test_a_seed_on_which_the_generator_gives_up_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from reasoning_gym.games.countdown import CountdownDataset

    generate = CountdownDataset._generate_expression
    failures = iter([ValueError("Failed to generate valid expression after 100 attempts")])

    def fails_once(self: CountdownDataset, rng: random.Random) -> object:
        for failure in failures:
            raise failure
        return generate(self, rng)

    monkeypatch.setattr(CountdownDataset, "_generate_expression", fails_once)
    assert len(ReasoningGym(task="countdown").tasks("train", 2, 0)) == 2
    monkeypatch.setattr(CountdownDataset, "_generate_expression", lambda self, rng: 1 / 0)
    with pytest.raises(BadOptionError, match=r"countdown has 0 train questions .*ZeroDivisionError: division by zero"):
        ReasoningGym(task="countdown").tasks("train", 2, 0)


def test_a_kind_with_too_few_questions_says_how_many_and_what_widens_it() -> None:
    with pytest.raises(BadOptionError, match=r"chain_sum has \d\d test questions with .*, not 500\. .*max_digits"):
        ReasoningGym().tasks("test", 500, 0)
    assert len(ReasoningGym(max_digits=2).tasks("test", 500, 0)) == 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "chain_sums"}, r"task is one of \d+ generators, not 'chain_sums'\. Did you mean 'chain_sum'"),
        ({"max_term": 3}, r"chain_sum has no option 'max_term'. Known: task, level, min_terms, .*Did you mean 'max_t"),
        ({"seed": 3}, r"chain_sum has no option 'seed'"),
        ({"min_terms": 3}, r"chain_sum with level=0, min_terms=3: max_terms must be >= min_terms"),
        ({"max_terms": "many"}, r"chain_sum with level=0, max_terms='many': .*str"),
        ({"level": 99}, r"level of chain_sum is a whole number from 0 to \d+, not 99"),
        ({"task": "list_functions", "level": 1}, r"level of list_functions is a whole number from 0 to 0, not 1"),
        ({"task": "codeio"}, r"task 'codeio' is not played here: it runs code"),
        ({"task": "composite"}, r"task 'composite' is not played here: it mixes"),
    ],
)
def test_what_cannot_be_played_is_refused_before_a_worker_is_started(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadOptionError, match=message):
        catalog.build(EnvironmentSpec("reasoning_gym", options))


@pytest.mark.parametrize(
    "kind", ["countdown", "puzzle24", "binary_matrix", "n_queens", "spiral_matrix", "string_insertion"]
)
def test_no_reply_is_run_as_code_by_a_verifier(kind: str, tmp_path: Path) -> None:
    world = ReasoningGym(task=kind)
    (task,) = world.tasks("train", 1, 0)
    proof = tmp_path / "ran"
    for reply in (f"open({str(proof)!r}, 'w')", f"[open({str(proof)!r}, 'w')]", "9**9**9**9"):
        assert answered(world, task, f"<answer>{reply}</answer>").rewards["agent"] == 0.0
    assert not proof.exists()
    assert answered(world, task, world.expert(task)[0]).info["success"] is True


def test_every_kind_whose_verifier_hands_the_reply_to_a_parser_that_runs_it_is_known() -> None:
    import inspect

    from reasoning_gym.factory import DATASETS

    running = {
        kind
        for kind, (dataset, _) in DATASETS.items()
        if any(call in inspect.getsource(dataset.score_answer) for call in ("eval(answer", "parse_expr(answer"))
    }
    guarded = {"countdown", "puzzle24", "binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
    assert running - set(REFUSED) == guarded


@pytest.mark.parametrize("kind", ["list_functions", "pool_matrix"])
def test_generators_that_draw_from_the_global_state_are_repeatable_and_leave_it_alone(kind: str) -> None:
    import numpy as np

    before = random.getstate(), np.random.get_state()[1].tolist()
    dealt = [ReasoningGym(task=kind).tasks("train", 5, 0) for _ in range(2)]
    assert dealt[0] == dealt[1]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_a_verifier_that_raises_counts_as_a_wrong_reply() -> None:
    world = ReasoningGym(task="prime_factorization")
    (task,) = world.tasks("train", 1, 0)
    assert answered(world, task, "no factors").rewards["agent"] == 0.0
