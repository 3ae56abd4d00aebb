"""Household chores in words, after ALFWorld (arXiv:2010.03768): find a thing, clean, heat or cool it, put it away.

A task is a kind, a split, a world and a seed. `household_games` makes its game in a millisecond; `reset` grounds it in
0.1 to 0.25 CPU-seconds, or 0.03 when it is played again. Fast Downward simulates it and ALFWorld's grammar words what
happens. What differs from `textworld.envs.PddlEnv`, and why: it grounds each game four times and parses a grammar for
every admissible command, 12 steps a second; here a game is grounded once and commands are filled in, 140 a second.

The actions on offer leave out looking round, examining, closing and slicing, which no chore needs; they stay legal when
typed. The translator keeps its options in modules: threads break it, so each environment has a process of its own.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evolvent.environments.errors import BadOptionError, MissingPackageError, OverwrittenPackageError
from evolvent.environments.household_games import KINDS, domain, game
from evolvent.environments.solo import SEAT, refusal, said
from evolvent.environments.splits import game_seed
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
_NOT_OFFERED = ("look", "inventory", "help", "examine ", "close ", "slice ")
_SIMULATOR = "fast-downward-textworld"


class Household:
    players = (SEAT,)
    instructions = (
        "You do chores in a household. Go to furniture, open what is closed, take things and move them. You carry one "
        "thing at a time. Clean with the sinkbasin, heat with the microwave, cool with the fridge. To look at a thing "
        "in the light, hold it and use the lamp."
    )
    max_steps = 30

    def __init__(self, *, kind: str = "", world: int = 0) -> None:
        """Chores of one kind, or of all six dealt in turn.

        Args:
            kind: `pick`, `look`, `clean`, `heat`, `cool` or `two`; empty for all.
            world: number of the household, which has its own habits of where things lie.

        Raises:
            BadOptionError: no such kind, or a world that is no number.
            MissingPackageError, OverwrittenPackageError: the simulator is not there, or not whole.
        """
        if kind and kind not in KINDS:
            raise BadOptionError(f"household: kind is one of {', '.join(KINDS)} or empty for all, not {kind!r}.")
        if not isinstance(world, int):
            raise BadOptionError(f"household: world is a whole number, not {world!r}.")
        _check_simulator()
        self._kinds = (kind,) if kind else tuple(KINDS)
        self._world = world
        self._simulation: _Simulation | None = None
        self._commands: dict[str, Any] = {}
        self._goal = self._here = self._held = ""
        self._steps = 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` chores; kinds take turns. No floor plan is in two splits."""
        of_options = f"household/{'-'.join(self._kinds)}/{self._world}"
        seeds = dict.fromkeys(game_seed(of_options, split, seed, index) for index in range(2 * n))
        return [
            self._task(self._kinds[index % len(self._kinds)], split, chosen)
            for index, chosen in enumerate([*seeds][:n])
        ]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Start the task's game; the task alone decides it, whatever `seed` is."""
        self.close()
        self._simulation = _Simulation(game(**task.data).problem)
        self._goal = task.prompt[0].lower() + task.prompt[1:].rstrip(".")
        self._here = self._held = ""
        self._steps = 0
        return (self._turn(self._simulation.words("#look.feedback#")),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._simulation is None:
            raise RuntimeError("reset comes before step")
        self._steps += 1
        command = said(actions)
        legal = command in self._commands
        if legal:
            text = self._simulation.do(self._commands[command])
            self._follow(command)
        else:
            text = refusal(command, self._offered())
        won = self._simulation.won()
        if won or self._steps >= self.max_steps:
            end = Observation(SEAT, text, None, must_act=False)
            return StepResult((end,), {SEAT: float(won)}, True, {"success": won, "legal": legal})
        return StepResult((self._turn(text),), {SEAT: 0.0}, False, {"legal": legal})

    def expert(self, task: Task) -> list[str]:
        """The shortest way of one who knows where everything lies; at most 12 actions."""
        return list(game(**task.data).walk)

    def close(self) -> None:
        if self._simulation is not None:
            self._simulation.close()
            self._simulation = None

    def _task(self, kind: str, split: Split, seed: int) -> Task:
        data = {"kind": kind, "split": split, "world": self._world, "seed": seed}
        return Task(f"household/{self._world}/{kind}/{split}/{seed}", game(**data).prompt, "household", data, (kind,))

    def _turn(self, text: str) -> Observation:
        assert self._simulation is not None
        self._commands = self._simulation.commands()
        where = f"at the {self._here}" if self._here else "in the middle of the room"
        hands = f"with {self._held} in hand" if self._held else "with empty hands"
        return Observation(SEAT, text, self._offered(), frame=f"To {self._goal}, {where} {hands}, {{action}}.")

    def _offered(self) -> tuple[str, ...]:
        here = f"go to {self._here}"
        return tuple(sorted(each for each in self._commands if each != here and not each.startswith(_NOT_OFFERED)))

    def _follow(self, command: str) -> None:
        verb, _, rest = command.partition(" ")
        if verb == "go":
            self._here = rest.removeprefix("to ")
        elif verb == "take":
            self._held = rest.split(" from ")[0]
        elif verb == "move":
            self._held = ""


class _Simulation:
    """One game, grounded and played by Fast Downward's library; a copy of it each, for the library holds the state."""

    def __init__(self, problem: str) -> None:
        import fast_downward
        from textworld.envs.pddl.logic import PddlState
        from textworld.generator.game import EntityInfo

        self._fast_downward = fast_downward
        self._logic = _logic()
        self._library = fast_downward.load_lib()
        self._state = PddlState(self._library, problem, self._logic)
        ids = {variable for fact in self._state.facts for variable in fact.arguments}
        self._entities = {each.name: EntityInfo(each.name, each.type) for each in ids}
        for entity in self._entities.values():
            entity.name = entity.id.replace("_", " ")
            entity.definite, entity.indefinite = "the", "an" if entity.id[0] in "aeiou" else "a"

    def words(self, rule: str, mapping: Mapping[Any, Any] | None = None) -> str:
        mapping = mapping or {}
        context = {
            "state": self._state,
            "facts": list(self._state.facts),
            "variables": {place.name: self._entities[value.name] for place, value in mapping.items()},
            "mapping": mapping,
            "entity_infos": self._entities,
        }
        told: str = self._logic.grammar.derive(rule, context)
        return told

    def commands(self) -> dict[str, Any]:
        """What may be typed now, and the action it stands for."""
        named: dict[str, Any] = {}
        for action in self._state.all_applicable_actions():
            # ALFWorld's own template asks the state which furniture is there; the action has it among its parameters.
            template = "go to {r}" if action.name == "gotolocation" else action.command_template
            names = {place.name: self._entities[value.name].name for place, value in action.mapping.items()}
            named.setdefault(template.format(**names), action)
        return named

    def do(self, action: Any) -> str:
        self._state.apply(action)
        return self.words(action.feedback_rule, action.mapping)

    def won(self) -> bool:
        return bool(self._state.check_goal())

    def close(self) -> None:
        self._fast_downward.close_lib(self._library)


@functools.cache
def _logic() -> Any:
    import fast_downward
    from textworld.envs.pddl import logic

    logic.fast_downward = SimpleNamespace(**{**vars(fast_downward), "pddl2sas": _grounded})
    return logic.GameLogic(*domain())


@functools.lru_cache(maxsize=64)
def _translated(domain_text: str, problem: str) -> Any:
    import fast_downward

    arguments = sys.argv
    try:
        return fast_downward.pddl2sas(domain_text, problem)
    finally:
        sys.argv = arguments  # The translator puts its own there.


def _grounded(domain_text: str, problem: str, verbose: bool = False, optimize: bool = False) -> Any:
    """In place of `pddl2sas`: once a game, and not again for the planner, which nobody asks."""
    return _translated(domain_text, problem)


@functools.cache
def _check_simulator() -> None:
    try:
        simulator = importlib.metadata.distribution(_SIMULATOR)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError(
            f'household needs the package {_SIMULATOR!r}. Install it: pip install "evolvent[household]"'
        ) from error
    if changed := overwritten(simulator):
        raise OverwrittenPackageError(
            f"household: another package has written over {len(changed)} files of {_SIMULATOR}, {changed[0]} first; "
            "fast-downward.translate, which up-fast-downward 1.x brings, does. Games would end in 'Undefined object'. "
            'Put them back: pip uninstall fast-downward.translate; pip install "up-fast-downward<1"; '
            f"pip install --force-reinstall --no-deps {_SIMULATOR}"
        )


def overwritten(installed: importlib.metadata.Distribution) -> list[str]:
    """Python files of a distribution that are gone or no longer of the size that its record says."""
    changed = []
    for file in installed.files or ():
        path = Path(file.locate())
        if file.suffix == ".py" and file.size is not None and (not path.exists() or path.stat().st_size != file.size):
            changed.append(str(file))
    return changed
