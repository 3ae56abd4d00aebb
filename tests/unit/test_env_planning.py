from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, get_args

import pytest

from evolvent.environments import pddl, strips
from evolvent.environments.errors import BadOptionError, MalformedPddlError
from evolvent.environments.planning import (
    Planning,
    domain_of,
    domain_pddl,
    parse_plan,
    problem_of,
    problem_pddl,
    validate,
)
from evolvent.environments.planning_domains import WORLDS, shape
from evolvent.environments.strips import Call, Plan, Problem
from evolvent.environments.types import Action, Split, StepResult, Task

SIZES = [(domain, objects) for domain in WORLDS for objects in (3, 4)]
BLOCKS = pddl.read_domain(WORLDS["blocksworld"].pddl)
# dark-blue stands on red, amber on the table; red shall stand on amber.
TOWER = """
(define (problem tower)
  (:domain blocksworld)
  (:objects red amber dark-blue - block)
  (:init (on dark-blue red) (on-table red) (on-table amber) (clear dark-blue) (clear amber) (hand-empty))
  (:goal (and (on red amber) (on-table dark-blue))))
"""
TASK = Task("tower", "Stack.", "planning", {"domain": "blocksworld", "problem": TOWER})
SOLUTION = "(unstack dark-blue red)\n(put-down dark-blue)\n(pick-up red)\n(stack red amber)"


def judged(reply: str) -> strips.Verdict:
    return validate(TASK, parse_plan(reply))


def answered(reply: str) -> StepResult:
    world = Planning()
    world.reset(TASK, 0)
    return world.step({"agent": Action(reply)})


# -- reading a reply ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "plan"),
    [
        (SOLUTION, "unstack dark-blue red;put-down dark-blue;pick-up red;stack red amber"),
        ("1. (Pick-Up RED)\n2. ( stack  red,\tamber )", "pick-up red;stack red amber"),
        ("```\n(pick-up red)(put-down red)\n```", "pick-up red;put-down red"),
        ("First (pick-up x).\nPlan: (pick-up red)", "pick-up red"),
        ("Plan:\n(a)\n**Plan**:\n(pick-up red)\n", "pick-up red"),
        ("My plan: (pick-up red)", "pick-up red"),
        ("I take it (the red one).", "the red one"),
        ("(and (pick-up red))", "pick-up red"),
        ("()", ""),
    ],
)
def test_a_plan_is_what_stands_in_parentheses_behind_the_last_mark(reply: str, plan: str) -> None:
    calls = (each.split() or [""] for each in plan.split(";"))
    assert parse_plan(reply) == tuple(Call(name, tuple(arguments)) for name, *arguments in calls)


@pytest.mark.parametrize("reply", ["", "pick-up red", "(pick-up red", ")(", "(" * 5_000, "\n" * 5_000])
def test_a_reply_without_an_action_has_an_empty_plan(reply: str) -> None:
    assert parse_plan(reply) == ()
    assert judged(reply).flaw == "nothing"


# -- the judge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "flaw", "position", "legal", "said"),
    [
        ("(stack red amber)", "precondition", 1, 0, "(stack red amber): it needs (holding red), which does not hold"),
        ("(unstack dark-blue red)(pick-up red)", "precondition", 2, 1, "needs (hand-empty), which"),
        ("(unstack dark-blue red)(pick-up red)(fly)", "precondition", 2, 1, "Before it, do (put-down dark-blue)."),
        ("(unstack dark-blue red)(lift red)", "action", 2, 1, "no action 'lift'. There are: pick-up, put-down"),
        ("(unstak dark-blue red)", "action", 1, 0, "no action 'unstak'. Did you mean unstack?"),
        ("(unstack darkblue red)", "object", 1, 0, "no object 'darkblue'. Did you mean dark-blue?"),
        ("(unstack dark-blue b1)", "object", 1, 0, "no object 'b1'. There are: red, amber, dark-blue."),
        ("(unstack dark-blue)", "arguments", 1, 0, "unstack takes 2 object(s), not 1. Write (unstack ?x ?y)."),
        ("(unstack dark-blue red)(put-down dark-blue)", "goal", None, 2, "(on red amber) does not hold at the end"),
        (SOLUTION + "(pick-up dark-blue)", "trailing", 5, 4, "goal already satisfied before this action. Keep only"),
        (SOLUTION + "(fly)", "trailing", 5, 4, "Keep only the first 4."),
        (SOLUTION.replace("(pick-up red)", "()"), "action", 3, 2, "Action 3, (): there is no action ''."),
    ],
)
def test_the_first_flaw_is_named_with_its_place_and_a_remedy(
    plan: str, flaw: str, position: int | None, legal: int, said: str
) -> None:
    verdict = judged(plan)
    assert (verdict.flaw, verdict.position, verdict.legal) == (flaw, position, legal)
    assert said in verdict.text
    assert not verdict.valid
    assert verdict.action == (parse_plan(plan)[position - 1].text if position else "")


def test_of_two_flaws_only_the_first_is_told() -> None:
    told = judged("(unstack dark-blue red)(pick-up red)(put-down dark-blue)(pick-up red)(stack red teal)").text
    assert told.startswith("Action 2, (pick-up red): ")
    assert "teal" not in told
    assert "Action 5" not in told


def test_a_proposed_fix_removes_the_flaw() -> None:
    for domain, objects in SIZES:
        fixed = 0
        for task in Planning(domain=domain, objects=objects).tasks("train", 20, 1):
            plan = mutated(plan_of(task), task, random.Random(task.id))
            verdict = validate(task, plan)
            if verdict.flaw == "precondition" and verdict.fix:
                assert verdict.position is not None
                at = verdict.position - 1
                again = validate(task, (*plan[:at], *parse_plan(verdict.fix), *plan[at:]))
                assert again.valid or again.legal > verdict.legal or again.flaw == "trailing"
                fixed += 1
        assert fixed > 1, (domain, objects)


def test_an_ingredient_that_was_used_up_has_no_fix() -> None:
    (task,) = Planning(domain="cooking").tasks("train", 1, 0)
    food = next(name for name, kind in problem_of(task).objects.items() if kind == "ingredient")
    verdict = validate(task, parse_plan(f"(take {food})(put-away {food})(take {food})"))
    assert (verdict.flaw, verdict.position, verdict.fix) == ("precondition", 3, "")


def test_the_kind_of_an_object_matters() -> None:
    (task,) = Planning(domain="ballmoving").tasks("train", 1, 0)
    ball, *_, room = problem_of(task).objects
    verdict = validate(task, (Call("move", (room, ball)),))
    assert verdict.flaw == "arguments"
    assert f"{ball} is of type ball, and ?to wants the type room" in verdict.text


def test_what_a_model_writes_between_parentheses_never_fills_the_feedback() -> None:
    assert len(judged(f"({'a remark ' * 900})").text) < 300
    assert len(judged(f"(pick-up {'x' * 9000})").text) < 300


def test_a_reply_is_all_or_nothing_and_its_verdict_is_told() -> None:
    right, wrong = answered(SOLUTION), answered("(pick-up red)")
    assert (right.rewards["agent"], right.info) == (1.0, {"success": True, "flaw": "", "legal": 4})
    assert (wrong.rewards["agent"], wrong.info) == (0.0, {"success": False, "flaw": "precondition", "legal": 0})
    assert wrong.observations[0].text == judged("(pick-up red)").text


# -- problems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("domain", "objects"), SIZES)
def test_the_expert_plans_validly_and_the_prompt_says_all_that_the_pddl_says(domain: str, objects: int) -> None:
    world = Planning(domain=domain, objects=objects)
    for task in world.tasks("test", 20, 2):
        problem, (reply,) = problem_of(task), world.expert(task)
        assert validate(task, parse_plan(reply)).valid
        assert not problem.initial.issuperset(problem.goal)
        assert all(re.search(rf"(?<![\w-]){name}(?![\w-])", task.prompt) for name in problem.objects)
        assert all(name in task.prompt for name in domain_of(task).actions)
        goal = task.prompt.partition("Goal: ")[2]
        assert goal.count(" is ") == len(problem.goal)


@pytest.mark.parametrize(("domain", "objects"), SIZES)
def test_a_problem_stands_in_one_split_alone_whatever_its_names(domain: str, objects: int) -> None:
    world = Planning(domain=domain, objects=objects)
    shapes = [
        {shape(WORLDS[domain], problem_of(task)) for task in world.tasks(split, 120, 0)} for split in get_args(Split)
    ]
    assert len(set.union(*shapes)) == sum(map(len, shapes))
    assert min(map(len, shapes)) > 4


@pytest.mark.parametrize("name", WORLDS)
def test_the_shape_of_a_problem_knows_no_names_but_tells_problems_apart(name: str) -> None:
    world, rng = WORLDS[name], random.Random(5)
    domain = pddl.read_domain(world.pddl)
    for _ in range(10):
        problem, other = world.draw(rng, 4), world.draw(rng, 4)
        names = list(problem.objects)
        new = dict(zip(names, (f"thing-{place}" for place in rng.sample(range(99), len(names))), strict=True))
        renamed = Problem(
            {new[name]: problem.objects[name] for name in rng.sample(names, len(names))},
            frozenset(tuple(new.get(term, term) for term in fact) for fact in problem.initial),
            tuple(tuple(new.get(term, term) for term in fact) for fact in problem.goal),
        )
        assert shape(world, renamed) == shape(world, problem)
        lengths = [len(strips.solve(domain, each) or ()) for each in (problem, renamed, other)]
        assert lengths[0] == lengths[1]
        assert lengths[0] == lengths[2] or shape(world, problem) != shape(world, other)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"domain": "chess"}, "planning: domain is one of blocksworld, ballmoving, cooking, not 'chess'"),
        ({"objects": 5}, "planning: objects is 3 or 4, not 5"),
        ({"objects": 3.0}, "planning: objects is 3 or 4, not 3.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(BadOptionError, match=told):
        Planning(**options)  # type: ignore[arg-type]  # wrong types are the point


# -- search ------------------------------------------------------------------------------------------------------------


def shortest(task: Task) -> int:
    """Length of a shortest plan, by walking all states in breadth without any knowledge of the goal."""
    domain, problem = domain_of(task), problem_of(task)
    level, seen, length = {problem.initial}, {problem.initial}, 0
    while not any(state.issuperset(problem.goal) for state in level):
        level = {strips.after(domain, state, call) for state in level for call in possible(task, state)} - seen
        seen |= level
        length += 1
    return length


def possible(task: Task, state: frozenset[strips.Fact]) -> list[Call]:
    found = []
    for call in calls(task):
        schema = domain_of(task).actions[call.name]
        values = dict(zip((variable for variable, _ in schema.parameters), call.arguments, strict=True))
        if all(tuple(values.get(term, term) for term in fact) in state for fact in schema.needs):
            found.append(call)
    return found


def calls(task: Task) -> list[Call]:
    """Every action with every object, of the right kind or not."""
    names = sorted(problem_of(task).objects)
    found = []
    for schema in domain_of(task).actions.values():
        if len(schema.parameters) == 1:
            found += [Call(schema.name, (name,)) for name in names]
        else:
            found += [Call(schema.name, (one, other)) for one in names for other in names]
    return found


@pytest.mark.parametrize("domain", ["blocksworld", "ballmoving"])
def test_the_search_finds_a_shortest_plan(domain: str) -> None:
    for task in Planning(domain=domain).tasks("train", 4, 3):
        assert len(plan_of(task)) == shortest(task)


def test_the_search_gives_up_where_there_is_no_plan_and_at_its_limits() -> None:
    problem = pddl.read_problem(TOWER, BLOCKS)
    circle = Problem(problem.objects, problem.initial, (("on", "red", "amber"), ("on", "amber", "red")))
    assert strips.solve(BLOCKS, circle) is None
    assert strips.solve(BLOCKS, problem, longest=3) is None
    assert strips.solve(BLOCKS, problem, states=2) is None
    assert len(strips.solve(BLOCKS, problem, longest=4) or ()) == 4
    crowd = Problem({f"b{place}": "block" for place in range(400)}, frozenset(), (("on", "b1", "b2"),))
    assert strips.solve(BLOCKS, crowd) is None


# -- PDDL that a model wrote -------------------------------------------------------------------------------------------


def test_a_problem_is_read_out_of_prose_fences_comments_and_capitals() -> None:
    text = f"Here you are:\n```pddl\n; the domain\n{WORLDS['blocksworld'].pddl}\n```\nand {TOWER.upper()} ; done"
    assert pddl.read_problem(text, pddl.read_domain(text)) == pddl.read_problem(TOWER)
    assert pddl.read_domain(text) == BLOCKS


@pytest.mark.parametrize(("domain", "objects"), SIZES)
def test_what_is_written_is_read_back_equal(domain: str, objects: int) -> None:
    for task in Planning(domain=domain, objects=objects).tasks("train", 5, 0):
        problem = pddl.read_problem(problem_pddl(task), pddl.read_domain(domain_pddl(task)))
        assert problem == problem_of(task)
        assert pddl.write_problem(problem) == problem_pddl(task)


def test_an_untyped_translation_plans_as_well() -> None:
    bare = re.sub(r"\s- block", "", WORLDS["blocksworld"].pddl).replace("(:types block)", "")
    domain = pddl.read_domain(bare.replace(" :typing", ""))
    problem = pddl.read_problem(TOWER.replace("- block", ""), domain)
    plan = strips.solve(domain, problem)
    assert plan is not None
    assert validate(TASK, plan).valid


def test_a_wrong_translation_is_told_fact_by_fact() -> None:
    wrong = TOWER.replace("(on dark-blue red) (on-table red)", "(on red dark-blue) (on-table red)")
    reference = pddl.read_problem(TOWER)
    assert strips.differences(pddl.read_problem(wrong), reference) == (
        "initial fact (on dark-blue red) is missing",
        "initial fact (on red dark-blue) is too much",
    )
    assert strips.differences(reference, reference) == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("(define (problem tower)", "(problem tower", r"no \(define \(problem …\) …\) in"),
        ("(on-table dark-blue))))", "(on-table dark-blue))", r"lacks 2 closing parenthesis"),
        ("(on dark-blue red)", "(on b2 red)", r"speaks of 'b2', which is not declared"),
        ("(on dark-blue red)", "(on (dark-blue) red)", r"speaks of '\(dark-blue\)', which is not declared"),
        ("(on dark-blue red)", "(on dark-blue)", r"\(on dark-blue\) has 1 argument\(s\); on takes 2"),
        ("(on dark-blue red)", "(above dark-blue red)", r"no predicate 'above' in the domain blocksworld\. Known: on,"),
        ("(on dark-blue red)", "dark-blue", r"in :init, 'dark-blue' should be \(name …\)"),
        ("(on red amber)", "(not (on red amber))", r"'\(not \(on red amber\)\)' is not read"),
        ("(and (on red amber) (on-table dark-blue))", "(on red amber) (on-table dark-blue)", r"one expression, not 2"),
        ("(and (on red amber) (on-table dark-blue))", "(and)", r"the goal is empty"),
        ("- block", "- brick", r"no type 'brick'"),
        ("- block", "-", r"a dash stands between names and one type"),
        ("red amber dark-blue", "red amber red", r":objects names 'red' twice"),
        ("red amber dark-blue", "red amber ?x", r"'\?x' is no name"),
        ("(:init", "(:metric minimize) (:init", r"':metric|\(:metric minimize\)' is no section of a problem"),
        ("(define (problem tower)", "(define (problem the tower)", r"a problem has one name"),
    ],
)
def test_a_malformed_problem_gives_one_clear_error(old: str, new: str, told: str) -> None:
    assert old in TOWER
    with pytest.raises(MalformedPddlError, match=told) as caught:
        pddl.read_problem(TOWER.replace(old, new), BLOCKS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (":strips :typing", ":strips :adl", r"':adl' is not read\. Known: :strips, :typing"),
        ("(:types block)", "(:constants a)", r"'\(:constants a\)' is no section of a domain"),
        ("(holding ?x - block))", "(holding x - block))", r"'x' is no variable"),
        (":precondition (holding ?x)", ":precondition (not (clear ?x))", r"is not read; plain facts are"),
        (":precondition (holding ?x)", ":precondition (holding ?z)", r"speaks of '\?z', which is not declared"),
        (":precondition (holding ?x)", ":precondition (held ?x)", r"no predicate 'held'"),
        (":precondition (holding ?x)", ":when (holding ?x)", r"put-down should have :parameters, :precondition"),
    ],
)
def test_a_malformed_domain_gives_one_clear_error(old: str, new: str, told: str) -> None:
    text = WORLDS["blocksworld"].pddl
    assert old in text
    with pytest.raises(MalformedPddlError, match=told):
        pddl.read_domain(text.replace(old, new))


@pytest.mark.parametrize(
    "text",
    [
        "(define (problem p) " + "(" * 15_000,
        "(define (problem p) (:init " + "(" * 5_000 + ")" * 5_000 + "))",
        "(define (problem p) (:goal " + "(and " * 4_000 + ")" * 4_000 + "))",
        "(define (problem p)" + " x" * 50_000,
        "(define (problem p)",
        "",
    ],
)
def test_no_nesting_or_length_breaks_the_reader(text: str) -> None:
    with pytest.raises(MalformedPddlError):
        pddl.read_problem(text, BLOCKS)


# -- held to another's validator ---------------------------------------------------------------------------------------


def plan_of(task: Task) -> Plan:
    plan = strips.solve(domain_of(task), problem_of(task))
    assert plan is not None
    return plan


def mutated(plan: Sequence[Call], task: Task, rng: random.Random) -> Plan:
    """One action left out, doubled, replaced or swapped with its neighbour; or a walk of actions of the right kind."""
    changed, at = list(plan), rng.randrange(len(plan))
    kinds, problem = domain_of(task), problem_of(task)
    any_call = rng.choice(
        [
            call
            for call in calls(task)
            if all(
                problem.objects[name] == kind
                for name, (_, kind) in zip(call.arguments, kinds.actions[call.name].parameters, strict=True)
            )
        ]
    )
    match rng.randrange(5):
        case 0:
            del changed[at]
        case 1:
            changed.insert(at, changed[at])
        case 2:
            changed[at] = any_call
        case 3:
            changed.insert(at, any_call)
        case _:
            changed[at - 1], changed[at] = changed[at], changed[at - 1]
    return tuple(changed)


@pytest.mark.parametrize(("domain", "objects"), SIZES)
def test_our_verdict_is_that_of_unified_planning(domain: str, objects: int) -> None:
    pytest.importorskip("unified_planning", reason="the other validator is a development dependency")
    from unified_planning.engines import SequentialPlanValidator, ValidationResultStatus
    from unified_planning.io import PDDLReader

    reader, validator, seen = PDDLReader(), SequentialPlanValidator(), set()

    def valid(problem: Any, plan: Sequence[Call]) -> bool:
        theirs = reader.parse_plan_string(problem, "\n".join(call.text for call in plan))
        return bool(validator.validate(problem, theirs).status == ValidationResultStatus.VALID)

    for task in Planning(domain=domain, objects=objects).tasks("validation", 4, 4):
        rng, plan = random.Random(task.id), plan_of(task)
        problem = reader.parse_problem_string(domain_pddl(task), problem_pddl(task))
        for candidate in (plan, *(mutated(plan, task, rng) for _ in range(5))):
            verdict = validate(task, candidate)
            seen.add(verdict.flaw)
            if verdict.flaw == "trailing":  # theirs lets a plan go on
                assert valid(problem, candidate[: verdict.legal])
            else:
                assert verdict.valid == valid(problem, candidate)
    assert {"", "precondition"} <= seen
