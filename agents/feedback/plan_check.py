"""A plan is checked before it is handed in: by an exact simulation, or by the model that traces the states itself.

Either names the first action that cannot be done and nothing behind it (ISR-LLM, arXiv 2308.13724).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from evolvent.agents.solutions.formalize import shortest_plan, stated
from evolvent.environments import strips
from evolvent.environments.planning import domain_of, parse_plan, problem_of, validate
from evolvent.environments.strips import Fact, Plan, Problem
from evolvent.environments.types import Message, Task

VALIDATOR = (
    "You check plans. Go through the actions in order and write the facts that hold after each. Stop at the first "
    'action that cannot be done, and say which one it is and why behind "Error:". When all can be done, say whether '
    'the goal is reached. End with one line: "Verdict: yes" for a valid plan, "Verdict: no" for any other.'
)
REJECTED = "The plan was not accepted."
"""Told where the validator gives no reason."""
_VERDICT = re.compile(r"^\W*verdict\W+(yes|no)\b.*$", re.IGNORECASE | re.MULTILINE)
_ERROR = re.compile(r"\berror\s*:\s*", re.IGNORECASE)


def simulated(task: Task, reply: str) -> str:
    """The first flaw of the plan in a reply, with a remedy where there is one; empty for a valid plan."""
    verdict = validate(task, parse_plan(reply))
    return "" if verdict.valid else verdict.text


def validation_request(task: Task, reply: str, translation: str, shown: Sequence[Task]) -> tuple[Message, ...]:
    """A prompt of its own that asks whether the plan in a reply holds, behind others that were checked.

    Args:
        translation: of the task by the model; empty to have it judged by the task in words.
    """
    examples = []
    for number, each in enumerate(shown):
        plan = _spoilt(shortest_plan(each), number)
        told = _facts(problem_of(each)) if translation else each.prompt
        examples.append(f"{_asked(told, plan)}\n{traced(each, plan)}")
    problem = stated(translation)
    told = _facts(problem) if problem else translation or task.prompt
    return (
        Message("system", "instructions", VALIDATOR),
        Message("user", "memory", "\n\n".join(examples) + "\n" if examples else ""),
        Message("user", "task", _asked(told, parse_plan(reply))),
    )


def objection(analysis: str) -> str:
    """What a validator's reply says against a plan; empty where its last verdict is yes.

    A reply without a verdict accepts nothing.
    """
    verdicts = _VERDICT.findall(analysis)
    if verdicts and verdicts[-1].lower() == "yes":
        return ""
    error = _ERROR.split(analysis, maxsplit=1)[-1]
    return _VERDICT.sub("", error).strip() or REJECTED


def traced(task: Task, plan: Plan) -> str:
    """A plan checked as a validator should: the state after each action up to the first that cannot be done."""
    verdict, state = validate(task, plan), problem_of(task).initial
    lines = []
    for number, call in enumerate(plan[: verdict.legal], 1):
        state = strips.after(domain_of(task), state, call)
        lines.append(f"{number}. {call.text}: {_listed(sorted(state))}")
    return "\n".join([*lines, "Verdict: yes" if verdict.valid else f"Error: {verdict.text}\nVerdict: no"])


def _spoilt(plan: Plan, number: int) -> Plan:
    """Every second plan lacks an action, each another one."""
    gap = number // 2 % len(plan)
    return plan[:gap] + plan[gap + 1 :] if number % 2 else plan


def _asked(problem: str, plan: Plan) -> str:
    return "\n".join([problem, "Plan to check:", *(call.text for call in plan), "Check:"])


def _facts(problem: Problem) -> str:
    return f"Initial facts: {_listed(sorted(problem.initial))}\nGoal facts: {_listed(problem.goal)}"


def _listed(facts: Sequence[Fact]) -> str:
    return " ".join(strips.written(fact) for fact in facts)
