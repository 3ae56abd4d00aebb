"""Who shops: users with hidden tastes, and what each of them asks for, one instruction after another.

A taste (brand, colour, price cap) holds for everything a user buys. The first instructions say two parts of it, then
one; after that nearly all leave it out and rely on what was said before. No instruction says the whole of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evolvent.environments.shop_catalogue import COLOURS, SIZES, Product

Part = Literal["brand", "colour", "cap"]
CAPS = (25, 35, 45)
"""In dollars. The least of them is above the middling product of every brand, so each user can have any category."""
_FIRST: tuple[tuple[Part, ...], ...] = (("brand", "colour"), ("cap", "colour"))
_REMINDED_EVERY = 7
"""An odd number, so that both of the splits that share later instructions in turn have some."""
_NEW = ("I need a {}", "I am looking for a {}", "Please buy a {}")
_AGAIN = ("I need another {}", "One more {}, please", "Please buy another {}")
_LEFT_OUT = ("As I always like them.", "You know my taste.", "To my usual taste.")
_REST = "Otherwise as I like them."


@dataclass(frozen=True, slots=True)
class Taste:
    brand: str
    colour: str
    cap: int
    """The most this user pays, in dollars."""

    def likes(self, product: Product) -> bool:
        return product.brand == self.brand and self.colour in product.colours and product.price <= self.cap


@dataclass(frozen=True, slots=True)
class Wish:
    """One instruction and what stands behind it."""

    position: int
    """In the user's list, from 0."""
    text: str
    category: str
    attributes: Mapping[str, str]
    options: Mapping[str, str]
    cap: int
    target: str
    """Id of a product that has all of it; there may be others."""
    said: tuple[Part, ...]
    """The parts of the taste that the text tells."""
    words: tuple[str, ...]
    """What the text tells of the wanted product beside its category."""


def tastes(world: int, users: int, products: Sequence[Product]) -> tuple[Taste, ...]:
    """One taste for each of up to 12 users, all different; neighbours differ in every part."""
    rng = random.Random(f"shop/{world}/tastes")
    brands = sorted({product.brand for product in products})
    rng.shuffle(brands)
    colours, caps = rng.sample(COLOURS, len(COLOURS)), rng.sample(CAPS, len(CAPS))
    return tuple(
        Taste(brands[at % len(brands)], colours[at % len(colours)], caps[at % len(caps)]) for at in range(users)
    )


def wishes(taste: Taste, products: Sequence[Product], rng: random.Random) -> Iterator[Wish]:
    """A user's list, without end. Half of the wishes name a material, half a size."""
    categories = sorted({product.category for product in products})
    asked: set[str] = set()
    position = 0
    while True:
        category = rng.choice(categories)
        target = rng.choice([each for each in products if each.category == category and taste.likes(each)])
        material = target.material if rng.random() < 0.5 else ""
        size = rng.choice(SIZES) if rng.random() < 0.5 else ""
        said = _said(position, rng)
        told: dict[Part, str] = {"brand": taste.brand, "colour": taste.colour, "cap": f"at most {taste.cap} dollars"}
        details = (f" of {material}" if material else "") + (f", size {size}" if size else "")
        opening = rng.choice(_AGAIN if category in asked else _NEW).format(category + details)
        left_out = rng.choice(_LEFT_OUT)
        taste_told = f"My taste: {', '.join(told[part] for part in said)}. {_REST}" if said else left_out
        yield Wish(
            position=position,
            text=f"{opening}. {taste_told}",
            category=category,
            attributes={"brand": taste.brand} | ({"material": material} if material else {}),
            options={"colour": taste.colour} | ({"size": size} if size else {}),
            cap=taste.cap,
            target=target.id,
            said=said,
            words=(*(told[part].lower() for part in said if part != "cap"), *([material] if material else [])),
        )
        asked.add(category)
        position += 1


def _said(position: int, rng: random.Random) -> tuple[Part, ...]:
    """Two parts in each of the first two instructions, one in the next, and one now and then after that."""
    one: Part = rng.choice(("brand", "colour", "cap"))
    if position < len(_FIRST):
        return _FIRST[position]
    return (one,) if position % _REMINDED_EVERY == len(_FIRST) else ()
