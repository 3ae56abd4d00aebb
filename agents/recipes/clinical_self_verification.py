"""Self-Verification Improves Few-Shot Clinical Information Extraction (arXiv 2306.00024).

A list is drawn out of a text by a few-shot prompt; then the same model adds what it missed, takes out what does not
belong, quotes the text for every item, and looks at each label again with its quote. In that order, once. One
generation is one pass over new texts, measured beside the lists as they were first drawn.

Deviations from the paper and its released code:
- Lists are read by the environment's own reader. The released one stops at a line that begins with "non", and its
  merge by case makes two entries of one drug.
- Nothing is added or filtered by rule: the released code appends "placebo" where the text has that word and drops
  every arm with "control" in it.
- Items keep the spelling they had first, so an item that the evidence reply spells in another way loses nothing.
- Where the evidence reply says nothing of any item, or the call failed, the list stays as it was, and the place where
  the text names an item is its quote.
- The solved examples are validation tasks, not other tasks of the test, and this recipe uses them for nothing else.
- Labels of arms do not exist, so their status is not revised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from statistics import fmean

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import Node, State, cycle
from evolvent.agents.feedback.evidence import EXAMPLES, REQUEST, in_text, parse_evidence, supported
from evolvent.agents.solutions.scratchpad import Scratchpad, user
from evolvent.agents.solutions.shots import examples
from evolvent.environments.extraction import LABELS, compare, key, merge_items, overlap, parse_items, render_items
from evolvent.environments.types import Message, Task

ROLES = ("actor", "verifier")
ENVIRONMENTS = ("extraction",)
CARRIES_OVER = False
"""Lists and quotes serve the one text they are of."""

OMISSION = (
    "{note}\nThe list so far:\n{items}\n"
    "What does the list lack? Write that alone, in the same way, one a line, or - none if it lacks nothing."
)
PRUNER = "You check lists of medications."
PRUNE_NAMES = (
    "Listed as medications:\n{items}\n"
    "Which of these are no medications? Write those alone, one a line, or - none if all of them are."
)
PRUNE_ARMS = (
    "{note}\nListed as arms of the trial:\n{items}\n"
    "Which of these are no arms of the trial? Write those alone, one a line, or - none if all of them are."
)
EVIDENCE = "{example}\n\n{note}\nThe list:\n{items}\n" + REQUEST
AT_ONCE = (
    "{example}\n\n{note}\nThe list:\n{items}\n"
    "Add what the list lacks, leave out what does not belong in it, and correct wrong labels. " + REQUEST
)
STATUS = (
    'Medication: quinapril\nQuote: "Was taken off quinapril in May."\nLabel: active\nRight label: discontinued\n\n'
    '{note}\nMedication: {name}\nQuote: "{quote}"\nLabel: {label}\n'
    "Which is the right label: active, discontinued or neither? Answer with that one word.\nRight label:"
)
CHAIN, SHORT = ("extract", "omission", "prune", "evidence", "status"), ("extract", "verify")
"""Purposes of the calls, and names of the nodes, that leave a list."""
_LIST, _QUOTES = "list", "quotes"
"""Notes on a text: its list after each of these, by number; and the quotes of its items."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: int = Field(2, ge=0)
    """Solved examples before the text that a list is drawn from."""
    at_once: bool = False
    """One prompt asks for all the checks together: the control for the chain."""
    check_quotes: bool = False
    """An item goes if its quote is not in the text word for word or does not name it. Not in the paper."""
    temperature: float = Field(0.0, ge=0)
    list_tokens: int = Field(48, ge=1)
    """Of an extraction, of what it missed, and of what to take out, each, at most."""
    evidence_tokens: int = Field(96, ge=1)


PRESETS = {"small": Config(), "paper": Config(shots=5, list_tokens=256, evidence_tokens=1024)}

Items = Mapping[str, str]
"""Name → label."""


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → extract → omission → prune → evidence → status → submit → evaluate.

    With `at_once`, a node `verify` stands in for the four checks.
    """

    async def extract(state: State, runtime: Runtime[Context]) -> State:
        """The list as a few-shot prompt gives it."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: drawing lists out of {len(pad.tasks)} texts")
        shots = examples(context, config.shots)

        async def listed(task: Task) -> str:
            reply = await pad.ask(
                task,
                "extract",
                await pad.question(task, shots.text),
                temperature=config.temperature,
                max_tokens=config.list_tokens,
                stop=shots.stop,
            )
            return _keep(pad, task, 0, parse_items(reply))

        await pad.each(listed(task) for task in pad.tasks)
        return {}

    async def omission(pad: Scratchpad, task: Task, items: Items) -> Items:
        """With what was missed; a new label wins."""
        text = OMISSION.format(note=task.prompt, items=_shown(items))
        return merge_items(items, parse_items(await ask(pad, task, "omission", text, config.list_tokens)))

    async def prune(pad: Scratchpad, task: Task, items: Items) -> Items:
        """Without what the model says is none, which of medications it tells by the names alone."""
        names = _shown(dict.fromkeys(items, ""))
        if not _labelled(task):
            text = PRUNE_ARMS.format(note=task.prompt, items=names)
            return _without(items, await ask(pad, task, "prune", text, config.list_tokens))
        text = PRUNE_NAMES.format(items=names)
        kept = _without(items, await ask(pad, task, "prune", text, config.list_tokens, PRUNER))
        return in_text(task, kept)

    async def evidence(pad: Scratchpad, task: Task, items: Items) -> Items:
        """Those for which the text is quoted."""
        reply = await ask(pad, task, "evidence", _quoting(EVIDENCE, task, items), config.evidence_tokens)
        return quoted(pad, task, items, reply)

    async def verify(pad: Scratchpad, task: Task, items: Items) -> Items:
        """All checks in one prompt: what is quoted in the reply is the list, new items too."""
        reply = await ask(pad, task, "verify", _quoting(AT_ONCE, task, items), config.evidence_tokens)
        new = {name: each.label for name, each in parse_evidence(reply).items()}
        return quoted(pad, task, merge_items(items, new), reply)

    def quoted(pad: Scratchpad, task: Task, items: Items, reply: str) -> Items:
        found = supported(task, items, reply, check_quotes=config.check_quotes)
        pad.note(task, _QUOTES, json.dumps({name: each.quote for name, each in found.items()}))
        return {name: each.label for name, each in found.items()}

    async def status(state: State, runtime: Runtime[Context]) -> State:
        """The label of each medication looked at again, with its quote and in a call of its own."""
        context, number = runtime.context, CHAIN.index("status")
        pad = Scratchpad(context, state)
        context.say(f"generation {state['generation']}: check {number} of {len(pad.tasks)} lists")
        lists = {task.id: _items(pad, task, number - 1) for task in pad.tasks}
        await pad.each(
            ask(pad, task, "status", _revising(pad, task, name, label), 8, number=place, stop=("\n",))
            for task in pad.tasks
            if _labelled(task)
            for place, (name, label) in enumerate(lists[task.id].items())
        )
        for task in pad.tasks:
            replies = pad.every(task, "status") if _labelled(task) else [""] * len(lists[task.id])
            items = zip(lists[task.id].items(), replies, strict=True)
            _keep(pad, task, number, {name: _revised(label, reply) for (name, label), reply in items})
        return {}

    async def ask(
        pad: Scratchpad,
        task: Task,
        purpose: str,
        text: str,
        tokens: int,
        instructions: str = "",
        *,
        number: int = 0,
        stop: tuple[str, ...] = (),
    ) -> str:
        """A check of one turn, under the environment's instructions where it has none of its own."""
        head = Message("system", "instructions", instructions) if instructions else (await pad.question(task))[0]
        return await pad.ask(
            task,
            purpose,
            (head, user(text)),
            number,
            role="verifier",
            temperature=config.temperature,
            max_tokens=tokens,
            stop=stop,
        )

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the lists as they were first drawn."""
        pad, stages = Scratchpad(runtime.context, state), SHORT if config.at_once else CHAIN
        told = {
            "stages": {name: _measures(pad, number) for number, name in enumerate(stages)},
            "quotes": {task.id: _quotes(pad, task) for task in pad.tasks},
            "span_overlap": _span_overlap(pad),
        }
        return await answering.evaluate(state, runtime, direct="extract", more=told)

    chain = {"omission": _stage(1, omission), "prune": _stage(2, prune), "evidence": _stage(3, evidence)}
    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "extract": extract,
            **({"verify": _stage(1, verify)} if config.at_once else {**chain, "status": status}),
            "submit": partial(answering.submit, answer=_answer),
            "evaluate": evaluate,
        },
    )


def _stage(number: int, check: Callable[[Scratchpad, Task, Items], Awaitable[Items]]) -> Node:
    """A node that turns each list into the next one, by a call for each text."""

    async def node(state: State, runtime: Runtime[Context]) -> State:
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: check {number} of {len(pad.tasks)} lists")

        async def checked(task: Task) -> str:
            return _keep(pad, task, number, await check(pad, task, _items(pad, task, number - 1)))

        await pad.each(checked(task) for task in pad.tasks)
        return {}

    return node


def _quoting(prompt: str, task: Task, items: Items) -> str:
    example = EXAMPLES["medications" if _labelled(task) else "trial_arms"]
    return prompt.format(example=example, note=task.prompt, items=_shown(items))


def _revising(pad: Scratchpad, task: Task, name: str, label: str) -> str:
    return STATUS.format(note=task.prompt, name=name, quote=_quotes(pad, task)[name], label=label or "unknown")


def _revised(label: str, reply: str) -> str:
    """What the reply says, if that is a label; "neither" stays in any case."""
    said = key(reply.rpartition(":")[2])
    return said if said in LABELS and label != "neither" else label


def _without(items: Items, reply: str) -> dict[str, str]:
    """The items that a reply does not list, with bullets or without, in whatever case."""
    out = {key(name) for name in parse_items(reply)} | {key(part) for part in re.split(r"[\n,;]", reply)}
    return {name: label for name, label in items.items() if key(name) not in out}


def _labelled(task: Task) -> bool:
    return "medications" in task.tags


def _shown(items: Items) -> str:
    return render_items(items) or "- none"


def _keep(pad: Scratchpad, task: Task, number: int, items: Items) -> str:
    return pad.note(task, _LIST, json.dumps(dict(items)), number)


def _items(pad: Scratchpad, task: Task, number: int) -> dict[str, str]:
    """After so many checks."""
    items: dict[str, str] = json.loads(pad.said(task, _LIST, number) or "{}")
    return items


def _quotes(pad: Scratchpad, task: Task) -> dict[str, str]:
    quotes: dict[str, str] = json.loads(pad.said(task, _QUOTES) or "{}")
    return quotes


def _answer(pad: Scratchpad, task: Task) -> str:
    return render_items(_items(pad, task, len(pad.every(task, _LIST)) - 1))


def _measures(pad: Scratchpad, number: int) -> dict[str, float]:
    """Of the lists after so many checks, means over texts, in [0, 1]; `labels` is the share of right ones of all names
    that were found."""
    matches = [compare(task, _items(pad, task, number)) for task in pad.tasks]
    found = sum(len(each.found) for each in matches)
    return {
        "precision": fmean(each.precision for each in matches),
        "recall": fmean(each.recall for each in matches),
        "f1": fmean(each.f1 for each in matches),
        "labels": 1 - sum(len(each.mislabelled) for each in matches) / max(1, found),
    }


def _span_overlap(pad: Scratchpad) -> float | None:
    """Of the quotes of items that belong in their lists: the mean share that lies in the sentence which shows the
    item, in [0, 1]; None where there are none."""
    shares = [
        overlap(task, name, quote)
        for task in pad.tasks
        for name, quote in _quotes(pad, task).items()
        if compare(task, {name: ""}).found
    ]
    return fmean(shares) if shares else None
