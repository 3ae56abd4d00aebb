"""Small web pages of our own: forms and links, used by one instruction a step. See `web_instructions.GRAMMAR`."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any, get_args

from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task
from evolvent.environments.web_instructions import GRAMMAR, read_instruction
from evolvent.environments.web_pages import Browser
from evolvent.environments.web_tasks import KINDS, site

VERSION = 1
INSTRUCTIONS = f"You use web pages. Answer with one instruction, in one of these forms: {'; '.join(GRAMMAR)}."
UNREAD = f"That is no instruction, and nothing was done. Write one line in one of these forms: {'; '.join(GRAMMAR)}."
_SPLITS: tuple[Split, ...] = get_args(Split)
_IN_VAIN = 5000
"""Draws in a row that gave no new task: there are no more."""


class Web:
    """A page is used step by step; a button sends it and ends the episode.

    Score 1 when the right button was clicked and every field holds what was asked for, with no field changed beside
    them; else 0. A text that is no instruction costs a step and is told the forms. A task's hidden data hold `kind`,
    `pages`, and a `goal`: the `link` to follow first, the `values` to set and the `button`.

    Args:
        task: `mixed`, or one of `click-button`, `tick-boxes`, `enter-text`, `pick-option`, `log-in`, `fill-form`.
        pages: 1, or 2 for a first page with links to the one that is used.

    Raises:
        BadOptionError: an option outside its range.
    """

    players = (SEAT,)
    instructions = INSTRUCTIONS
    max_steps = 15

    def __init__(self, *, task: str = "mixed", pages: int = 1) -> None:
        if task != "mixed" and task not in KINDS:
            raise BadOptionError(f"web: task is one of mixed, {', '.join(KINDS)}, not {task!r}.")
        if pages not in (1, 2) or not isinstance(pages, int):
            raise BadOptionError(f"web: pages is 1 or 2, not {pages!r}.")
        self._kinds, self._pages = (list(KINDS) if task == "mixed" else [task]), pages
        self._task: Task | None = None
        self._browser = Browser([[]])
        self._steps = 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different tasks, of all kinds about equally many.

        Raises:
            BadOptionError: there are fewer.
        """
        rng = random.Random(f"web/{self._kinds}/{self._pages}/{split}/{seed}")
        tasks: dict[str, Task] = {}
        in_vain = 0
        while len(tasks) < n and in_vain < _IN_VAIN:
            in_vain += 1
            task = self._drawn(split, self._kinds[len(tasks) % len(self._kinds)], rng)
            if task is not None and task.id not in tasks:
                tasks[task.id], in_vain = task, 0
        if len(tasks) < n:
            raise BadOptionError(f"web: there are {len(tasks)} {split} tasks of this kind, not {n}. Ask for fewer.")
        return list(tasks.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._task, self._steps = task, 0
        self._browser = Browser(task.data["pages"])
        return (Observation(SEAT, self._browser.html()),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._task is None:
            raise RuntimeError("reset comes before step")
        self._steps += 1
        instruction = read_instruction(written(actions))
        told = UNREAD if instruction is None else self._browser.do(instruction)
        info: dict[str, Any] = {"grammatical": instruction is not None}
        if self._browser.sent is None and self._steps < self.max_steps:
            return StepResult((Observation(SEAT, f"{told}\n{self._browser.html()}"),), {SEAT: 0.0}, False, info)
        done = self._is_done(self._task)
        result = "That was right." if done else "That was not what was asked for."
        end = Observation(SEAT, f"{told}\n{result}", None, must_act=False)
        return StepResult((end,), {SEAT: float(done)}, True, {**info, "success": done})

    def expert(self, task: Task) -> list[str]:
        goal = task.data["goal"]
        kinds = {control["id"]: control for page in task.data["pages"] for control in page}
        steps = [f"clickxpath //a[@id='{goal['link']}']"] if goal["link"] else []
        for name, value in goal["values"].items():
            match kinds[name]["kind"]:
                case "options":
                    steps.append(f"clickoption //option[text()='{value}']")
                case "checkbox":
                    steps.append(f"clickxpath //input[@id='{name}']")
                case _:
                    steps += [f"clickxpath //input[@id='{name}']", f"type {value}"]
        return [*steps, f"clickxpath //button[@id='{goal['button']}']"]

    def close(self) -> None:
        self._task = None

    def _is_done(self, task: Task) -> bool:
        goal = task.data["goal"]
        wanted = Browser(task.data["pages"]).values | dict(goal["values"])
        return self._browser.sent == goal["button"] and self._browser.values == wanted

    def _drawn(self, split: Split, kind: str, rng: random.Random) -> Task | None:
        """A task of the kind, or None when it belongs to another split."""
        drawn = KINDS[kind](rng)
        prompt, pages, link = site(drawn, self._pages, rng)
        goal = {"link": link, "values": dict(drawn.values), "button": drawn.button}
        digest = hashlib.sha256(json.dumps([prompt, pages]).encode()).digest()
        if _SPLITS[int.from_bytes(digest[:4]) % len(_SPLITS)] != split:
            return None
        return Task(
            id=f"{kind}-{split}-{digest.hex()[:12]}",
            prompt=prompt,
            environment="web",
            data={"kind": kind, "pages": pages, "goal": goal},
            tags=(kind,),
        )
