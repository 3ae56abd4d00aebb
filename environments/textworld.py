"""Text adventures that TextWorld generates: find the coin, or cook the meal that the cookbook describes.

A task is a game seed; its game is generated on first use, 1 to 6 s, and kept in the user's cache. Differs from
TextWorld's own prompts in two ways: the objective does not spell out the walkthrough, and the actions on offer leave
out looking around and putting things down, which no level here needs. They stay legal when typed.

Rooms are named at random, so a coin game words its frame by what another game can share: exits and the last move.
"""

from __future__ import annotations

import importlib.metadata
import os
import random
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, refusal, said
from evolvent.environments.splits import game_seed
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 2

_COOKING = {"recipe_seed": 0, "split": None, "drop": False}
_COOKING_LEVELS: tuple[dict[str, Any], ...] = (
    {"recipe": 1, "take": 1, "go": 1, "open": False, "cook": False, "cut": False},
    {"recipe": 1, "take": 1, "go": 1, "open": True, "cook": True, "cut": False},
    {"recipe": 1, "take": 1, "go": 1, "open": True, "cook": True, "cut": True},
    {"recipe": 2, "take": 2, "go": 1, "open": True, "cook": True, "cut": True},
    {"recipe": 2, "take": 2, "go": 6, "open": True, "cook": True, "cut": True},
)
_COIN_LEVELS = 100
"""The level is the number of rooms, in a chain; the coin lies in the last one."""
_POOL = 200

_PROMPTS = {
    "coin": "Find the coin and take it.",
    "cooking": "Examine the cookbook in the kitchen, fetch and prepare what it asks for, prepare the meal and eat it.",
}
_INSTRUCTIONS = {
    "coin": "You explore a house in a text adventure. Walk from room to room until you see the coin, then take it.",
    "cooking": (
        "You cook in a text adventure. The cookbook tells which ingredients to take and how to cut and cook them. "
        "Fry on a stove, roast in an oven, grill on a BBQ. Cooking twice burns the food."
    ),
}
_NOT_OFFERED = ("look", "inventory", "examine ", "close ", "drop ", "put ", "insert ")
_ROOM = re.compile(r"-= (.+?) =-")
_PROMPT_LINE = re.compile(r"\n>[^\n]*\Z")
_AFTERWORD = re.compile(r"\s*\*\*\* .*", re.DOTALL)


class TextWorld:
    players = (SEAT,)

    def __init__(self, *, game: str = "coin", level: int | None = None) -> None:
        """`level` is 1 to 100 for `coin` (default 5), 1 to 5 for `cooking` (default 1)."""
        if game not in _PROMPTS:
            raise BadOptionError(f"textworld: game is 'coin' or 'cooking', not {game!r}.")
        highest = _COIN_LEVELS if game == "coin" else len(_COOKING_LEVELS)
        chosen = level if level is not None else 5 if game == "coin" else 1
        if not isinstance(chosen, int) or not 1 <= chosen <= highest:
            raise BadOptionError(f"textworld: level of {game} is 1 to {highest}, not {level!r}.")
        self._kind, self._level = game, chosen
        self.instructions = _INSTRUCTIONS[game]
        self.max_steps = 5 * chosen if game == "coin" else 15 + 5 * chosen
        self._game: Any = None
        self._legal: tuple[str, ...] = ()
        self._room = self._gone = ""
        self._score = 0.0
        self._steps = 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """Drawn from a split's first 200 games (or `n`), so that runs with other seeds find them in the cache."""
        world = f"textworld/{self._kind}/{self._level}"
        drawn = list(range(max(n, _POOL)))
        random.Random(f"{world}/{split}/{seed}").shuffle(drawn)
        seeds = [game_seed(world, split, 0, number) for number in drawn[:n]]
        data = {"game": self._kind, "level": self._level}
        return [
            Task(
                f"{world}/{split}/{chosen}", _PROMPTS[self._kind], "textworld", {**data, "seed": chosen}, (self._kind,)
            )
            for chosen in seeds
        ]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Start the task's game, generating it if the cache has none; the task alone decides it, whatever `seed` is."""
        import textworld

        self.close()
        wanted = textworld.EnvInfos(
            feedback=True, description=True, admissible_commands=True, score=True, max_score=True, won=True
        )
        self._game = textworld.start(str(_game_file(task)), wanted)
        state = self._game.reset()
        self._score, self._steps, self._gone = 0.0, 0, ""
        return (self._turn(_tidy(state.description), state),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        self._steps += 1
        command = said(actions)
        legal = {known.lower(): known for known in self._legal}
        if command not in legal:
            text = refusal(command, _offered(self._legal))
            if self._steps >= self.max_steps:
                return _end(text, 0.0, success=False)
            return StepResult((self._observation(text),), {SEAT: 0.0}, False, {"legal": False})
        state, _, over = self._game.step(legal[command])
        self._gone = command.removeprefix("go ") if command.startswith("go ") else self._gone
        score = max(0.0, state.score / state.max_score)
        reward, self._score = score - self._score, score
        text = _tidy(state.feedback)
        if over or self._steps >= self.max_steps:
            return _end(text, reward, success=bool(state.won))
        return StepResult((self._turn(text, state),), {SEAT: reward}, False, {"legal": True})

    def expert(self, task: Task) -> list[str]:
        """The walkthrough that TextWorld ships with the game, without looking round and putting the knife down."""
        from textworld import Game

        game = Game.load(str(_game_file(task).with_suffix(".json")))
        commands: list[str] = []
        for command in game.metadata.get("walkthrough") or game.walkthrough:
            held = command == "take knife" and any(earlier.startswith("take knife") for earlier in commands)
            if not held and not command.startswith(("inventory", "drop ")):
                commands.append(command)
        return commands

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
            self._game = None

    def _turn(self, text: str, state: Any) -> Observation:
        self._legal = tuple(state.admissible_commands)
        if room := _ROOM.search(state.description or state.feedback):
            self._room = room.group(1).lower()
        return self._observation(text)

    def _observation(self, text: str) -> Observation:
        situation = _whereabouts(self._legal, self._gone) if self._kind == "coin" else f"In the {self._room}"
        return Observation(SEAT, text, _offered(self._legal), frame=f"{situation}, {{action}}.")


def _end(text: str, reward: float, *, success: bool) -> StepResult:
    return StepResult((Observation(SEAT, text, None, must_act=False),), {SEAT: reward}, True, {"success": success})


def _offered(legal: tuple[str, ...]) -> tuple[str, ...]:
    useful = tuple(c for c in legal if c == "examine cookbook" or not c.startswith(_NOT_OFFERED))
    return useful or legal


def _whereabouts(legal: tuple[str, ...], gone: str) -> str:
    """What can be seen and where one came from: `Having gone east, with exits south and west`."""
    if "take coin" in legal:
        return "With the coin in sight"
    exits = sorted(command.removeprefix("go ") for command in legal if command.startswith("go "))
    ways = f"with exits {' and '.join(exits)}" if len(exits) > 1 else f"with one exit {''.join(exits)}"
    return f"Having gone {gone}, {ways}" if gone else ways.capitalize()


def _tidy(feedback: str) -> str:
    """The game's words without its prompt, its status line, its closing menu and its blank lines."""
    text = _AFTERWORD.sub("", _PROMPT_LINE.sub("", feedback))
    text = _ROOM.sub(r"\1:", text)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _game_file(task: Task) -> Path:
    """The task's compiled game, generated into the cache when it is not there. A folder appears whole or not at all."""
    game, level, seed = task.data["game"], task.data["level"], task.data["seed"]
    cache = Path(os.environ.get("EVOLVENT_CACHE") or "~/.cache/evolvent").expanduser()
    folder = cache / "textworld" / importlib.metadata.version("textworld") / f"{game}-{level}-{seed}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
        try:
            _generate(game, level, seed, draft / "game.z8")
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # Otherwise another process was faster, and its game is the same.
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder / "game.z8"


def _generate(game: str, level: int, seed: int, path: Path) -> None:
    import textworld
    from textworld.challenges.tw_coin_collector import coin_collector
    from textworld.challenges.tw_cooking import cooking
    from textworld.generator import compile_game

    options = textworld.GameOptions()
    options.seeds = seed
    options.path = str(path)
    if game == "coin":
        made = coin_collector.make({"level": level}, options)
    else:
        made = cooking.make({**_COOKING, **_COOKING_LEVELS[level - 1]}, options)
    compile_game(made, options)
