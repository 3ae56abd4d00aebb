"""What the shop sells, drawn by a world's number. Words in, products out; knows nothing of users or pages.

Every category has three products of every brand: a cheap one, a middling one and a dear one. Each lacks two colours,
never the same ones as the other two, so any colour is offered by two of the three.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

MATERIALS = {
    "mug": ("steel", "glass", "clay"),
    "lamp": ("steel", "glass", "oak"),
    "scarf": ("wool", "cotton", "silk"),
    "basket": ("willow", "bamboo", "cotton"),
    "stool": ("oak", "steel", "bamboo"),
    "clock": ("oak", "steel", "glass"),
    "tray": ("oak", "steel", "bamboo"),
    "vase": ("glass", "clay", "steel"),
    "pillow": ("cotton", "wool", "silk"),
    "mirror": ("oak", "steel", "bamboo"),
    "wallet": ("leather", "cotton", "silk"),
    "bowl": ("clay", "glass", "bamboo"),
}
"""By category; a world sells half of the categories."""
BRANDS = ("Norvik", "Calda", "Tessen", "Ombra", "Hollin", "Pellar", "Sorrel", "Wexley")
COLOURS = ("red", "blue", "green", "black", "white", "yellow")
SIZES = ("small", "medium", "large")
_CATEGORIES, _BRANDS = 6, 4
"""Of one world."""
_PRICES = ((8, 15), (16, 24), (26, 60))
"""In dollars: of a brand's cheap, middling and dear product."""


@dataclass(frozen=True, slots=True)
class Product:
    id: str
    """`B` and two digits; its order says nothing of what it is."""
    category: str
    brand: str
    material: str
    """Told by the description alone; a search finds it."""
    colours: tuple[str, ...]
    price: int
    """In dollars, whatever the options."""

    @property
    def title(self) -> str:
        return f"{self.id} {self.brand} {self.category}, {self.price} dollars"

    @property
    def description(self) -> str:
        return f"A {self.category} made of {self.material} by {self.brand}, in {len(self.colours)} colours."

    @property
    def options(self) -> dict[str, tuple[str, ...]]:
        """Values to choose from, by the option's name. No value belongs to two options."""
        return {"colour": self.colours, "size": SIZES}

    @property
    def text(self) -> str:
        """What a search looks through; of as many words for every product."""
        return f"{self.brand} {self.category} {self.material} {' '.join(self.colours)}"


def catalogue(world: int) -> tuple[Product, ...]:
    """The 72 products of a world, in the order of their ids."""
    rng = random.Random(f"shop/{world}/catalogue")
    categories, brands = rng.sample(sorted(MATERIALS), _CATEGORIES), rng.sample(BRANDS, _BRANDS)
    numbers = list(range(1, len(categories) * len(brands) * len(_PRICES) + 1))
    rng.shuffle(numbers)
    products = []
    for category in categories:
        for brand in brands:
            lacking = rng.sample(COLOURS, len(COLOURS))
            for place, prices in enumerate(_PRICES):
                colours = tuple(each for each in COLOURS if each not in lacking[2 * place : 2 * place + 2])
                material, price = rng.choice(MATERIALS[category]), rng.randint(*prices)
                products.append(Product(f"B{numbers.pop():02}", category, brand, material, colours, price))
    return tuple(sorted(products, key=lambda product: product.id))
