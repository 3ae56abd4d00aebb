from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from evolvent.agents.context import Context, Objective
from evolvent.agents.rollout import Rollouts
from evolvent.agents.trace import Trace
from evolvent.environments.bm25 import words
from evolvent.environments.catalog import ENTRIES
from evolvent.environments.errors import BadOptionError
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.shop import Shop, cost, position, share_met, user
from evolvent.environments.shop_catalogue import COLOURS, MATERIALS, SIZES, catalogue
from evolvent.environments.shop_users import CAPS, tastes
from evolvent.environments.types import Action, Split, StepResult, Task
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory

LONG = 80
"""Training tasks of a day that tests look through: 20 of each of four users."""
HELD_OUT: tuple[Split, ...] = ("validation", "test")


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(days=1, turns=LONG)


@pytest.fixture(scope="module")
def asked(shop: Shop) -> list[Task]:
    return shop.tasks("train", LONG, 0)


def played(shop: Shop, task: Task, commands: Sequence[str]) -> list[StepResult]:
    shop.reset(task, 0)
    results: list[StepResult] = []
    for command in commands:
        assert not (results and results[-1].done)
        results.append(shop.step({"agent": Action(command)}))
    return results


def told(result: StepResult) -> str:
    return result.observations[0].text


def offered(result: StepResult) -> tuple[str, ...]:
    return result.observations[0].actions or ()


def found(shop: Shop, task: Task, query: str) -> list[str]:
    return [product.id for product in shop.search(query, task)]


def purchase(shop: Shop, task: Task, **instead: str) -> float:
    """Score of what the expert buys, but for the options that are given."""
    options = {**task.data["options"], **instead}
    steps = [
        step for step in shop.expert(task) if step.removeprefix("click[")[:-1] not in task.data["options"].values()
    ]
    commands = [*steps[:-1], *(f"click[{value}]" for value in options.values() if value), steps[-1]]
    return played(shop, task, commands)[-1].rewards["agent"]


# -- the catalogue -----------------------------------------------------------------------------------------------------


def test_a_world_is_stocked_alike_each_time_and_unlike_another() -> None:
    assert catalogue(3) == catalogue(3)
    assert catalogue(3) != catalogue(4)


@pytest.mark.parametrize("world", range(20))
def test_every_brand_has_every_category_in_every_colour_at_three_prices(world: int) -> None:
    products = catalogue(world)
    assert [product.id for product in products] == [f"B{number:02}" for number in range(1, 73)]
    shelves = Counter((product.category, product.brand) for product in products)
    assert len(shelves) == 24
    assert set(shelves.values()) == {3}
    for category, brand in shelves:
        shelf = [product for product in products if (product.category, product.brand) == (category, brand)]
        assert Counter(colour for product in shelf for colour in product.colours) == dict.fromkeys(COLOURS, 2)
        cheap, middling, dear = sorted(product.price for product in shelf)
        assert cheap < middling < min(CAPS) < dear
        assert {product.material for product in shelf} <= set(MATERIALS[category])
    assert len({len(words(product.text)) for product in products}) == 1, "no product is favoured for a short text"


def test_no_word_is_both_a_colour_and_a_size_a_material_or_a_thing_sold() -> None:
    kinds = [set(COLOURS), set(SIZES), set(MATERIALS), {each for three in MATERIALS.values() for each in three}]
    assert len(set.union(*kinds)) == sum(map(len, kinds))


# -- users and what they ask for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", range(10))
def test_users_have_tastes_that_conflict(world: int) -> None:
    products = catalogue(world)
    every = tastes(world, 12, products)
    assert len(set(every)) == 12
    assert tastes(world, 4, products) == every[:4]
    for one, other in itertools.pairwise(every):
        assert one.brand != other.brand
        assert one.colour != other.colour
        assert one.cap != other.cap
        assert not any(one.likes(product) and other.likes(product) for product in products)


def test_what_an_instruction_leaves_out_is_nowhere_in_its_prompt(asked: list[Task]) -> None:
    for task in asked:
        parts = {
            "brand": task.data["attributes"]["brand"],
            "colour": task.data["options"]["colour"],
            "cap": f"{task.data['cap']} dollars",
        }
        assert {part for part, value in parts.items() if value in task.prompt} == set(task.data["said"])
        assert task.data["target"] not in task.prompt


def test_no_prompt_holds_a_whole_profile_and_later_ones_hold_hardly_any_of_it(shop: Shop, asked: list[Task]) -> None:
    said = {place: {tuple(task.data["said"]) for task in asked if position(task) == place} for place in range(20)}
    assert said[0] == {("brand", "colour")}
    assert said[1] == {("cap", "colour")}
    assert max(len(parts) for each in said.values() for parts in each) == 2
    for split in HELD_OUT:
        held_out = shop.tasks(split, LONG, 0)
        assert sum(bool(task.data["said"]) for task in held_out) <= LONG / 4
        assert any(task.data["said"] for task in held_out)


def test_a_user_keeps_to_one_taste_and_the_first_two_instructions_tell_it(asked: list[Task]) -> None:
    for name in {user(task) for task in asked}:
        own = [task for task in asked if user(task) == name]
        whole = {(t.data["attributes"]["brand"], t.data["options"]["colour"], t.data["cap"]) for t in own}
        assert len(whole) == 1
        assert {part for task in own[:2] for part in task.data["said"]} == {"brand", "colour", "cap"}
        assert own[0].tags == (name, own[0].data["category"])
        assert own[0].prompt.startswith(f"{name.replace(':', '-')}: ")


def test_another_is_said_of_what_the_user_asked_for_before(asked: list[Task]) -> None:
    had: set[tuple[str, ...]] = set()
    again = re.compile(r"\b(another|One more)\b")
    for task in asked:
        assert bool(again.search(task.prompt)) == (task.tags in had)
        had.add(task.tags)


def test_training_tasks_are_the_lists_interleaved_and_go_on_with_the_day() -> None:
    days = [Shop(day=day, days=3, turns=8).tasks("train", 8, 5) for day in (1, 2, 3)]
    places = [(user(task), position(task)) for tasks in days for task in tasks]
    assert places == [(f"user:{1 + k % 4}", k // 4) for k in range(24)]
    assert Shop(days=3, turns=24).tasks("train", 24, 5) == [task for tasks in days for task in tasks]


def test_what_is_held_out_comes_after_the_last_day() -> None:
    shop = Shop(users=3, day=1, days=2, turns=7)
    assert max(position(task) for task in Shop(users=3, day=2, days=2, turns=7).tasks("train", 7, 0)) == 4
    held = {split: shop.tasks(split, 6, 0) for split in HELD_OUT}
    assert [(user(task), position(task)) for task in held["validation"]] == [
        *(("user:1", 5), ("user:2", 5), ("user:3", 5)),
        *(("user:1", 7), ("user:2", 7), ("user:3", 7)),
    ]
    assert {position(task) for task in held["test"]} == {6, 8}
    assert Shop(users=3, day=2, days=2, turns=7).tasks("test", 6, 0) == held["test"]


def test_more_tasks_than_a_day_has_are_refused_with_the_way_out() -> None:
    with pytest.raises(BadOptionError, match=r"turns=12 training tasks, not 13\. Set turns=13\."):
        Shop().tasks("train", 13, 0)


def test_the_generations_of_a_run_are_the_days_of_the_same_lists(tmp_path: Path) -> None:
    objective = Objective("", EnvironmentSpec("shop"), 8, 4, 3, history=ENTRIES["shop"].history)
    with (
        Memory.open(tmp_path, embedder=HashEmbedder()) as memory,
        closing(Trace(tmp_path / "trace.jsonl")) as trace,
        closing(Rollouts(memory, trace)) as rollouts,
    ):
        context = Context(2, objective, {}, memory, rollouts, trace, tmp_path)
        trained = [task for generation in (1, 2, 3) for task in context.tasks("train", 8, generation)]
        held_out = [context.tasks("test", 4, generation) for generation in (0, 3)]
    assert trained == Shop(days=1, turns=24).tasks("train", 24, 2000)
    assert held_out[0] == held_out[1] == Shop(days=1, turns=24).tasks("test", 4, 2000)


# -- searching ---------------------------------------------------------------------------------------------------------


def test_one_query_is_answered_to_each_user_in_an_order_of_their_own(shop: Shop, asked: list[Task]) -> None:
    late = asked[-4:]
    category = late[0].data["category"]
    orders = [tuple(found(shop, task, category)) for task in late]
    assert len(set(orders)) == 4
    assert len({frozenset(order) for order in orders}) == 1


def test_the_order_follows_from_what_the_user_asked_for_before(shop: Shop, asked: list[Task]) -> None:
    for task in asked:
        brand = task.data["attributes"]["brand"]
        if not 2 <= position(task) <= 8:
            continue
        shown = shop.search(task.data["category"], task)
        places = [place for place, product in enumerate(shown) if product.brand == brand]
        familiar = int(user(task)[-1]) % 2 == 0
        assert (sum(places) / len(places) < 5.5) == familiar
    first = asked[:4]
    assert len({tuple(found(shop, task, "red")) for task in first}) == 1, "nobody has asked for anything yet"


def test_what_was_searched_for_comes_before_what_is_merely_liked(shop: Shop, asked: list[Task]) -> None:
    for task in asked:
        category, brand = task.data["category"], task.data["attributes"]["brand"]
        shown = shop.search(f"{brand} {category}", task)
        assert [(p.brand, p.category) for p in shown[:3]] == [(brand, category)] * 3


def test_a_search_for_nothing_that_is_sold_finds_nothing(shop: Shop, asked: list[Task]) -> None:
    (result,) = played(shop, asked[0], ["search[zeppelin]"])
    assert told(result) == "Nothing was found."
    assert offered(result) == ("click[back to search]",)


def test_a_model_that_can_only_choose_is_offered_searches_that_give_no_taste_away(
    shop: Shop, asked: list[Task]
) -> None:
    brands = {product.brand for product in shop.products}
    for task in asked:
        category, material = task.data["category"], task.data["attributes"].get("material")
        expected = {f"search[{brand} {category}]" for brand in brands} | {f"search[{category}]"}
        expected |= {f"search[{material} {category}]"} if material else set()
        assert set(shop.reset(task, 0)[0].actions or ()) == expected


# -- pages -------------------------------------------------------------------------------------------------------------


def test_pages_are_turned_and_left(shop: Shop, asked: list[Task]) -> None:
    task = asked[0]
    category = task.data["category"]
    order = found(shop, task, category)
    opened = f"click[{order[6].lower()}]"
    turning = ["click[next page]", opened, "click[description]", "click[previous page]", "click[previous page]"]
    first, second, product, described, again, back, home = played(
        shop, task, [f"search[{category}]", *turning, "click[back to search]"]
    )
    assert told(first).startswith("Results 1 to 6 of 12:\n")
    assert offered(first) == (*(f"click[{id}]" for id in order[:6]), "click[next page]", "click[back to search]")
    assert offered(second) == (*(f"click[{id}]" for id in order[6:]), "click[previous page]", "click[back to search]")
    seventh = next(each for each in shop.products if each.id == order[6])
    assert told(product).startswith(seventh.title)
    assert seventh.material not in told(product)
    assert seventh.material in told(described)
    assert (told(again), told(back)) == (told(second), told(first))
    assert home.observations == shop.reset(task, 0)


def test_a_chosen_value_is_shown_and_gives_way_to_another_of_its_option(shop: Shop, asked: list[Task]) -> None:
    steps = shop.expert(asked[0])
    *_, opened = played(shop, asked[0], steps[: len(steps) - 1 - len(asked[0].data["options"])])
    one, other = offered(opened)[:2]
    shop.step({"agent": Action(one)})
    shop.step({"agent": Action("click[small]")})
    result = shop.step({"agent": Action(other)})
    assert f"Chosen: {other[len('click[') : -1]}, small." in told(result)


@pytest.mark.parametrize("command", ["click[buy now]", "click[B99]", "buy now", "click[]", "search[]", "click[[red]]"])
def test_what_a_page_does_not_offer_costs_a_page_step_and_changes_nothing(
    shop: Shop, asked: list[Task], command: str
) -> None:
    refused, after = played(shop, asked[0], [command, shop.expert(asked[0])[0]])
    assert "is not possible here. You can: search[" in told(refused)
    assert refused.info == {"legal": False, "pages": 1}
    assert after.info == {"legal": True, "pages": 2}


def test_a_search_is_possible_on_the_search_page_alone(shop: Shop, asked: list[Task]) -> None:
    first, second = played(shop, asked[0], ["search[red]", "search[blue]"])
    assert (first.info["legal"], second.info["legal"]) == (True, False)


def test_a_thought_is_answered_and_costs_no_page_step_but_counts_to_the_bound(shop: Shop, asked: list[Task]) -> None:
    thought, searched, *more = played(shop, asked[0], ["think[Which one?]", "search[red]", *["think[click[b01]]"] * 13])
    assert told(thought) == "OK."
    assert offered(thought) == shop.reset(asked[0], 0)[0].actions
    assert thought.info == {"legal": True, "pages": 0}
    assert searched.info["pages"] == more[-1].info["pages"] == 1
    assert len([thought, searched, *more]) == shop.max_steps
    assert more[-1].done
    assert more[-1].info["success"] is False
    assert told(more[-1]) == "OK. Nothing was bought in time."


def test_a_page_step_has_a_price_and_a_thought_has_none() -> None:
    assert cost("think[Is it red? click[B01]]") == (0.0, 0.0)
    assert cost("search[red mug]") == (2.0, 0.002)
    assert cost("click[B01]") == cost("click[Buy Now]") == cost("I give up.") == (1.0, 0.001)


# -- purchases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", range(4))
def test_the_expert_earns_everything_by_what_is_on_offer(world: int) -> None:
    shop = Shop(world=world, users=5, days=1, turns=40)
    for task in shop.tasks("train", 40, world):
        observations = shop.reset(task, 0)
        for command in shop.expert(task):
            assert command in (observations[0].actions or ())
            result = shop.step({"agent": Action(command)})
            observations = result.observations
        assert (result.done, result.rewards["agent"], result.info["success"]) == (True, 1.0, True)


def test_each_wanted_thing_that_is_missed_costs_its_share(shop: Shop, asked: list[Task]) -> None:
    task = next(t for t in asked if len(t.data["attributes"]) == len(t.data["options"]) == 2)
    wish = task.data
    assert purchase(shop, task) == 1.0
    assert purchase(shop, task, colour="") == purchase(shop, task, size="") == pytest.approx(4 / 5)
    assert purchase(shop, task, colour="", size="") == pytest.approx(3 / 5)
    for product in shop.products:
        if product.category == wish["category"]:
            fits = (product.brand == wish["attributes"]["brand"]) + (product.material == wish["attributes"]["material"])
            assert share_met(task, product, {}) == pytest.approx((fits + (product.price <= wish["cap"])) / 5)
            assert share_met(task, product, wish["options"]) == pytest.approx(share_met(task, product, {}) + 2 / 5)


def test_another_category_earns_nothing_however_well_it_fits(shop: Shop, asked: list[Task]) -> None:
    for task in asked[:8]:
        taste = tastes(0, 4, shop.products)[int(user(task)[-1]) - 1]
        other = next(p for p in shop.products if p.category != task.data["category"] and taste.likes(p))
        query = f"search[{other.brand} {other.category}]"
        bought = [query, f"click[{other.id}]", f"click[{taste.colour}]", "click[medium]", "click[buy now]"]
        last = played(shop, task, bought)[-1]
        assert (last.rewards["agent"], last.info["success"]) == (0.0, False)
        assert told(last).endswith("It is not what the user asked for.")


def test_the_taste_of_another_user_is_worth_less(shop: Shop, asked: list[Task]) -> None:
    every = tastes(0, 4, shop.products)
    for task in asked:
        own = int(user(task)[-1]) - 1
        other = every[(own + 1) % 4]
        liked = [p for p in shop.products if p.category == task.data["category"] and other.likes(p)]
        assert all(share_met(task, p, {**task.data["options"], "colour": other.colour}) < 0.7 for p in liked)


def test_an_answer_never_tells_what_was_wanted(shop: Shop, asked: list[Task]) -> None:
    task = next(task for task in asked if not task.data["said"])
    cheap = [p for p in shop.products if p.category == task.data["category"]]
    other = next(p for p in cheap if p.brand != task.data["attributes"]["brand"])
    last = played(shop, task, [f"search[{other.brand} {other.category}]", f"click[{other.id}]", "click[buy now]"])[-1]
    assert told(last) == f"You bought {other.title}. It is not all that the user wanted."
    assert json.dumps(last.info, sort_keys=True) == '{"legal": true, "pages": 3, "success": false}'
