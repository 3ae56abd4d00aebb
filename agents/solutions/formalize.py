"""Saying a planning task in PDDL, and planning it goal by goal (ISR-LLM, arXiv 2308.13724): what a model is shown.

Worked examples are made of solved tasks: their PDDL, and a shortest plan told by its goals in the order in which they
come to hold for good.
"""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.environments import pddl, strips
from evolvent.environments.errors import MalformedPddlError
from evolvent.environments.planning import domain_of, domain_pddl, problem_of, problem_pddl
from evolvent.environments.strips import Fact, Plan, Problem
from evolvent.environments.types import Message, Task

TRANSLATOR = "You write planning tasks in PDDL. Answer with the problem and the domain, and with nothing else."
"""The problem comes first: what a reply that is cut lacks is the end of the rules, which examples have too."""
GOAL_BY_GOAL = (
    "Plan for one goal at a time, in an order in which no goal is undone again: name it and the actions that reach it. "
    "Then write the whole plan behind the word Plan:"
)


def translation_request(task: Task, shown: Sequence[Task]) -> tuple[Message, ...]:
    """A prompt of its own that asks for a task in PDDL, behind others with theirs."""
    examples = "\n\n".join(f"Task: {each.prompt}\nPDDL:\n{_formal(each)}" for each in shown)
    question = f"Task: {task.prompt}\nPDDL:"
    return (
        Message("system", "instructions", TRANSLATOR),
        Message("user", "memory", f"{examples}\n" if examples else ""),
        Message("user", "task", question),
    )


def planned(tasks: Sequence[Task], *, in_pddl: bool) -> str:
    """The request to plan by goals, and tasks planned so, in PDDL or in words; an empty line behind each."""
    told = (f"{_formal(task) if in_pddl else task.prompt}\nYour plan:\n{by_goals(task)}" for task in tasks)
    return "\n\n".join((GOAL_BY_GOAL, *told)) + "\n"


def by_goals(task: Task) -> str:
    """A shortest plan: its actions under the goals that they bring about for good, then the whole behind `Plan:`."""
    plan, states = shortest_plan(task), [problem_of(task).initial]
    for call in plan:
        states.append(strips.after(domain_of(task), states[-1], call))
    lines, begun = [], 0
    for end in range(len(states)):
        goals = [strips.written(fact) for fact in problem_of(task).goal if _since(fact, states) == end]
        if goals:
            lines.append(f"Goal {' and '.join(goals)}: {_actions(plan[begun:end]) or 'holds already'}")
            begun = end
    return "\n".join([*lines, "Plan:", *(call.text for call in plan)])


def shortest_plan(task: Task) -> Plan:
    plan = strips.solve(domain_of(task), problem_of(task))
    assert plan is not None, f"every drawn problem can be solved: {task.id}"
    return plan


def stated(translation: str) -> Problem | None:
    """The problem that a model's PDDL states; None where it cannot be read."""
    try:
        return pddl.read_problem(translation)
    except MalformedPddlError:
        return None


def _formal(task: Task) -> str:
    return f"{problem_pddl(task).strip()}\n{domain_pddl(task).strip()}"


def _actions(plan: Plan) -> str:
    return " ".join(call.text for call in plan)


def _since(fact: Fact, states: Sequence[frozenset[Fact]]) -> int:
    """Index of the state from which on a fact holds to the end."""
    return 1 + max((place for place, state in enumerate(states) if fact not in state), default=-1)
