"""Somebody who shops as they are told and remember, for models of known skill: reads every word, guesses nothing well.

What they know of a taste is what the request, the history and the important actions before it say. What they do not
know costs steps: products are opened one after the other until one has the colour and the material.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from evolvent.environments.shop_catalogue import BRANDS, COLOURS, MATERIALS, SIZES

_PATIENCE = 3
"""Products that are opened before one is bought as it is."""


@dataclass(frozen=True, slots=True)
class Known:
    category: str
    material: str
    size: str
    brand: str
    colour: str
    product: str
    """Id of one that was bought when the same sort of thing was asked for; its brand is liked."""
    suits: bool
    """Whether it is of the material that is asked for now, as far as one knows."""


def shop(messages: Sequence[BaseMessage]) -> str:
    """The next action, by the prompt alone."""
    said = [str(message.text) for message in messages]
    page, offered = said[-1].rpartition("Answer with one of: ")[::2]
    clicks = [text[len("click[") : -1] for text in said[2:-1:2] if text.startswith("click[")]
    options, known = offered.split(" | "), read(said[1])
    if options[0].startswith("search["):
        return f"search[{' '.join(filter(None, (known.brand, known.material, known.category)))}]"
    if "click[buy now]" in options:
        return f"click[{_on_product(page, known, clicks)}]"
    return f"click[{_among_results(page, options, known, clicks)}]"


def read(prompt: str) -> Known:
    """What the first message tells."""
    (request,) = re.findall(r"^user-\d+: (.+)$", prompt, re.MULTILINE)
    told = " ".join(re.findall(r"My taste: (.+)", "\n".join([*requests(prompt), request])))
    earlier, actions = earlier_request(prompt)
    category = _first(request, MATERIALS)
    again = _first(earlier, MATERIALS) == category
    material = _first(request, MATERIALS[category])
    return Known(
        category,
        material,
        size=_first(request, SIZES),
        brand=_first(told, BRANDS),
        colour=_first(told, COLOURS) or _first(actions, COLOURS),
        product=next(iter(re.findall(r"click\[(B\d+)\]", actions)), "") if again else "",
        suits=again and material in ("", _first(earlier, MATERIALS[category])),
    )


def requests(prompt: str) -> list[str]:
    """The history that a prompt shows."""
    return re.findall(r"^- (user-\d+: .+)$", prompt, re.MULTILINE)


def earlier_request(prompt: str) -> tuple[str, str]:
    """The past request that a prompt shows, and its important actions; empty where it shows none."""
    found = re.findall(r"^An earlier request like this one: (.+)\nIts important actions: (.+)$", prompt, re.MULTILINE)
    assert len(found) <= 1, "more than one past request"
    return found[0] if found else ("", "")


def _among_results(page: str, options: Sequence[str], known: Known, clicks: Sequence[str]) -> str:
    titles = re.findall(r"^(B\d+) (\w+) (\w+), (\d+) dollars$", page, re.MULTILINE)
    liked = known.brand or next((brand for id, brand, *_ in titles if id == known.product), "")
    if known.suits and known.product in [title[0] for title in titles]:
        return known.product
    fits = [title for title in titles if title[1] == liked or not liked]
    fresh = [title for title in fits if title[2] == known.category and title[0] not in clicks]
    unseen = (known.product and not liked) or not fresh
    if unseen and "click[next page]" in options and "next page" not in clicks:
        return "next page"
    cheapest = sorted(fresh or fits or titles, key=lambda title: int(title[3]))
    return cheapest[0][0] if cheapest else "back to search"


def _on_product(page: str, known: Known, clicks: Sequence[str]) -> str:
    opened = [click for click in clicks if re.fullmatch(r"B\d+", click)]
    since = clicks[len(clicks) - clicks[::-1].index(opened[-1]) :]
    at_last = len(opened) >= _PATIENCE or (known.suits and opened[-1] == known.product)
    if not since:
        colours = re.findall(r"^Colour: (.+)\.$", page, re.MULTILINE)[0].split(", ")
        if known.colour and known.colour not in colours and not at_last:
            return "previous page"
        if known.material and not at_last:
            return "description"
        return known.colour if known.colour in colours else colours[0]
    if since[-1] == "description":
        return known.colour or "red" if f"made of {known.material}" in page else "previous page"
    if known.size and known.size not in since:
        return known.size
    return "buy now"


def _first(text: str, among: Sequence[str] | dict[str, tuple[str, ...]]) -> str:
    return next((each for each in among if re.search(rf"\b{each}\b", text)), "")
