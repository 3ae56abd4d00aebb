"""A web shop with users who rely on what they asked for before: search, choose, buy.

WebShop's task (arXiv 2207.01206) in data of our own, retrofitted as in UA² (arXiv 2402.07744): every user has a hidden
taste and a consecutive list of instructions, a user's earlier instructions re-rank what a search shows, and page steps
have a price. `shop_catalogue` draws the products, `shop_users` the tastes and the lists.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from evolvent.environments.bm25 import Bm25, words
from evolvent.environments.errors import BadOptionError
from evolvent.environments.shop_catalogue import Product, catalogue
from evolvent.environments.shop_users import Wish, tastes, wishes
from evolvent.environments.solo import SEAT, refusal, said
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
SEARCH_SECONDS, CLICK_SECONDS = 2.0, 1.0
"""What a page step takes, as if the shop were far away; nothing waits."""
SEARCH_DOLLARS, CLICK_DOLLARS = 0.002, 0.001
_COMMAND = re.compile(r"(search|click) ?\[([^\[\]]+)\]|(think) ?\[.*\]")
_PER_PAGE, _PAGES = 6, 2
_EARLIER = 10
"""Instructions that a ranking looks back on."""
_PER_WORD, _MOST_WORDS = 0.02, 10
"""How far a word that was asked for before moves a product: the share of its relevance, and for how many at most."""
_MOST_USERS = 12


def user(task: Task) -> str:
    """Whose task it is: its first tag, as in `user:2`. The prompt begins with the same user's name, `user-2`."""
    return task.tags[0]


def position(task: Task) -> int:
    """Place of the task in its user's list, from 0."""
    return int(task.data["position"])


def cost(command: str) -> tuple[float, float]:
    """(seconds, dollars) of one command: nothing for a thought, a search's price for a search, else a click's.

    What cannot be read or is not possible loads a page all the same and has the price of a click.
    """
    match = _COMMAND.fullmatch(said({SEAT: Action(command)}))
    verb = match and (match[1] or match[3])
    if verb == "think":
        return 0.0, 0.0
    return (SEARCH_SECONDS, SEARCH_DOLLARS) if verb == "search" else (CLICK_SECONDS, CLICK_DOLLARS)


def share_met(task: Task, product: Product, chosen: Mapping[str, str]) -> float:
    """The reward of a purchase in [0, 1], after WebShop (arXiv 2207.01206).

    The share of wanted attributes, wanted options and the price cap that the product and the chosen options meet.
    Unlike there, another category earns nothing at all, and a word is met by the same word alone.
    """
    wish = task.data
    if product.category != wish["category"]:
        return 0.0
    met: list[bool] = [getattr(product, name) == value for name, value in wish["attributes"].items()]
    met += [chosen.get(name) == value for name, value in wish["options"].items()]
    met.append(product.price <= wish["cap"])
    return sum(met) / len(met)


class Shop:
    """A product is searched for, its options are chosen, and it is bought; that ends the episode.

    The score is `share_met`, 0 without a purchase; success is all of it. Actions are `search[words]` on the first
    page, `click[thing]` and `think[words]`. Some searches are on offer, so that a model can play by choosing alone: for
    the category, with the material where one is named, and with each brand.

    Relevance is BM25. A search by a user with an even number puts products first that have the words of the user's last
    ten instructions, any other user sees what is new first; it moves a product by a fifth at most.

    A task's hidden data hold the `user` by name, the `position` in the user's list, the wish (`category`, `attributes`,
    `options`, `cap`, `target`), the parts of the taste that the instruction `said`, and the words `earlier` ones said.

    Args:
        world: number that draws the catalogue and the tastes; the lists follow from it and the seed of `tasks`.
        users: who take turns, from 1 to 12.
        day: whose training tasks are dealt, from 1 to `days`.
        days: after which come the instructions for validation and test, in turn.
        turns: training tasks a day, 1 or more.

    Raises:
        BadOptionError: a value outside its range.
    """

    players = (SEAT,)
    instructions = (
        "You shop for several users with different tastes. On the search page write search[words], with any words. "
        "Elsewhere write click[thing] for what the page offers. Choose the colour, and the size where one is asked "
        "for, before click[buy now]. think[words] is answered OK."
    )
    max_steps = 15
    """Page steps and thoughts together."""

    def __init__(self, *, world: int = 0, users: int = 4, day: int = 1, days: int = 2, turns: int = 12) -> None:
        _check("world", world, 0, 1_000_000)
        _check("users", users, 1, _MOST_USERS)
        _check("days", days, 1, 10_000)
        _check("day", day, 1, days)
        _check("turns", turns, 1, 10_000)
        self.world, self._users, self._day, self._days, self._turns = world, users, day, days, turns
        self.products = catalogue(world)
        self._named = {product.id: product for product in self.products}
        self._brands = sorted({product.brand for product in self.products})
        self._tastes = tastes(world, users, self.products)
        self._index = Bm25([product.text for product in self.products])
        self._words = [set(words(product.text)) for product in self.products]
        self._visit: _Visit | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """The users' lists, interleaved: one instruction of each, then the next of each.

        Training tasks of a day go on where the day before ended, with the same seed. Those of the other splits come
        after the last day, the even ones of a user for validation and the odd ones for test.

        Raises:
            BadOptionError: more training tasks than a day has turns.
        """
        if split == "train" and n > self._turns:
            raise BadOptionError(f"shop: a day has turns={self._turns} training tasks, not {n}. Set turns={n}.")
        places = [self._place(split, k) for k in range(n)]
        longest = max((at for _, at in places), default=-1) + 1
        lists = [list(islice(self._wishes(who, seed), longest)) for who in range(self._users)]
        return [self._task(seed, who, lists[who][: at + 1]) for who, at in places]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Start on the search page; the task alone decides what a search shows, whatever `seed` is."""
        self._visit = _Visit(self, task)
        return (self._visit.page(),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        """Answer a command. `info` holds `legal` and `pages`, the page steps so far."""
        if self._visit is None:
            raise RuntimeError("reset comes before step")
        return self._visit.step(said(actions))

    def expert(self, task: Task) -> list[str]:
        """A shortest purchase that earns 1, by what is on offer alone."""
        wish = task.data
        brand = wish["attributes"]["brand"]
        target = self._named[wish["target"]]
        query = f"{brand} {wish['category']}"
        turned = [product.id for product in self.search(query, task)].index(target.id) // _PER_PAGE
        return [
            f"search[{query}]",
            *["click[next page]"] * turned,
            f"click[{target.id}]",
            *(f"click[{value}]" for value in wish["options"].values()),
            "click[buy now]",
        ]

    def close(self) -> None:
        self._visit = None

    def search(self, query: str, task: Task) -> list[Product]:
        """At most two pages of products that share a word with the query, as the task's user is shown them."""
        familiar = 1 if task.data["familiar_first"] else -1
        earlier = [word for said in task.data["earlier"] for word in said]

        def rank(place: int) -> tuple[float, int]:
            known = sum(word in self._words[place] for word in earlier)
            return -scores[place] * (1 + familiar * _PER_WORD * min(known, _MOST_WORDS)), place

        scores = self._index.scores(query)
        return [self.products[place] for place in sorted(scores, key=rank)[: _PER_PAGE * _PAGES]]

    def offered(self, task: Task) -> tuple[str, ...]:
        """The searches that the search page offers."""
        category, material = task.data["category"], task.data["attributes"].get("material")
        queries = [category, *([f"{material} {category}"] if material else [])]
        return tuple(f"search[{query}]" for query in [*queries, *(f"{brand} {category}" for brand in self._brands)])

    def _place(self, split: Split, k: int) -> tuple[int, int]:
        """(user, position in that user's list) of the k-th task of a split."""
        if split == "train":
            at, who = divmod((self._day - 1) * self._turns + k, self._users)
            return who, at
        first_free = -(-self._days * self._turns // self._users)
        turn, who = divmod(k, self._users)
        return who, first_free + 2 * turn + (split == "test")

    def _wishes(self, who: int, seed: int) -> Iterator[Wish]:
        return wishes(self._tastes[who], self.products, random.Random(f"shop/{self.world}/{seed}/{who}"))

    def _task(self, seed: int, who: int, until: Sequence[Wish]) -> Task:
        *before, wish = until
        name = f"user-{who + 1}"
        return Task(
            id=f"shop-w{self.world}-s{seed}-{name}-{wish.position}",
            prompt=f"{name}: {wish.text}",
            environment="shop",
            data={
                "user": name,
                "position": wish.position,
                "category": wish.category,
                "attributes": dict(wish.attributes),
                "options": dict(wish.options),
                "cap": wish.cap,
                "target": wish.target,
                "said": list(wish.said),
                "earlier": [list(each.words) for each in before[-_EARLIER:]],
                "familiar_first": (who + 1) % 2 == 0,
            },
            tags=(f"user:{who + 1}", wish.category),
        )


class _Visit:
    """One episode: which page is open, and what was chosen on it."""

    def __init__(self, shop: Shop, task: Task) -> None:
        self._shop, self._task = shop, task
        self._found: list[Product] | None = None
        """Results of the last search; None on the search page."""
        self._page = 0
        self._product: Product | None = None
        self._chosen: dict[str, str] = {}
        self._bought = False
        self._steps = self._thoughts = 0

    def step(self, text: str) -> StepResult:
        self._steps += 1
        match = _COMMAND.fullmatch(text)
        offered = {action.lower(): action for action in self._offered()}
        legal = True
        if match and match[3]:
            self._thoughts += 1
            told = "OK."
        elif match and match[1] == "search" and self._found is None:
            self._found, told = self._shop.search(match[2], self._task), ""
        elif match and f"click[{match[2]}]" in offered:
            told = self._click(offered[f"click[{match[2]}]"][len("click[") : -1])
        else:
            told, legal = refusal(text, self._offered()), False
        info: dict[str, Any] = {"legal": legal, "pages": self._steps - self._thoughts}
        if not self._bought and self._steps < self._shop.max_steps:
            # A thought or a refusal leaves the page as it was, which is not told again.
            turn = self._turn(told) if told else self.page()
            return StepResult((turn,), {SEAT: 0.0}, False, info)
        score = share_met(self._task, self._product, self._chosen) if self._bought and self._product else 0.0
        end = Observation(SEAT, f"{told} {_verdict(self._bought, score)}".strip(), None, must_act=False)
        return StepResult((end,), {SEAT: score}, True, {**info, "success": score == 1.0})

    def page(self) -> Observation:
        """The page that is open, in full."""
        if self._product is not None:
            lines = [f"{self._product.title}."]
            lines += [f"{name.capitalize()}: {', '.join(values)}." for name, values in self._product.options.items()]
            if self._chosen:
                lines.append(f"Chosen: {', '.join(self._chosen.values())}.")
            return self._turn("\n".join(lines))
        if self._found is None:
            return self._turn("The search page. Any words may be searched for.")
        if not self._found:
            return self._turn("Nothing was found.")
        first = self._page * _PER_PAGE + 1
        shown = self._shown()
        head = f"Results {first} to {first + len(shown) - 1} of {len(self._found)}:"
        return self._turn("\n".join([head, *(product.title for product in shown)]))

    def _click(self, thing: str) -> str:
        """Follow a click that is on offer; what is told instead of the new page, if anything is."""
        match thing:
            case "back to search":
                self._found, self._product, self._page, self._chosen = None, None, 0, {}
            case "previous page" if self._product is not None:
                self._product, self._chosen = None, {}
            case "previous page":
                self._page -= 1
            case "next page":
                self._page += 1
            case "description":
                assert self._product is not None
                return self._product.description
            case "buy now":
                assert self._product is not None
                self._bought = True
                return f"You bought {', '.join([self._product.title, *self._chosen.values()])}."
            case _ if self._product is None:
                self._product = next(each for each in self._found or () if each.id == thing)
            case _:
                options = self._product.options.items()
                self._chosen[next(name for name, values in options if thing in values)] = thing
        return ""

    def _shown(self) -> list[Product]:
        return (self._found or [])[self._page * _PER_PAGE : (self._page + 1) * _PER_PAGE]

    def _offered(self) -> tuple[str, ...]:
        if self._found is None:
            return self._shop.offered(self._task)
        if self._product is not None:
            values = [value for values in self._product.options.values() for value in values]
            things = [*values, "description", "buy now", "previous page", "back to search"]
        else:
            things = [product.id for product in self._shown()]
            things += ["next page"] if len(self._found) > (self._page + 1) * _PER_PAGE else []
            things += ["previous page"] if self._page else []
            things.append("back to search")
        return tuple(f"click[{thing}]" for thing in things)

    def _turn(self, text: str) -> Observation:
        where = "on the search page" if self._found is None else "among the results"
        if self._product is not None:
            where = ", ".join([f"on the page of {self._product.id}", *self._chosen.values()])
        frame = f"To buy a {self._task.data['category']} for {self._task.data['user']}, {where}: {{action}}"
        return Observation(SEAT, text, self._offered(), frame=frame)


def _verdict(bought: bool, score: float) -> str:
    """What the user says; never what was wanted."""
    if not bought:
        return "Nothing was bought in time."
    if score == 1.0:
        return "The user is happy with it."
    return "It is not all that the user wanted." if score else "It is not what the user asked for."


def _check(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or not least <= value <= most:
        raise BadOptionError(f"shop: {name} is a number from {least} to {most}, not {value!r}.")
