"""The depth-first search over policies, as it is read from their records."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from evolvent.agents.errors import SetupError
from evolvent.agents.refinement.policy_search import PolicyTree, accept, policy_record, policy_tree, refuse
from evolvent.memory.fold import apply
from evolvent.memory.types import Event, Record


class Search:
    """Records as the ledger would fold them."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.root = self.add("root", 0)

    def add(
        self, text: str, generation: int, number: int = 0, *, of: Record | None = None, mends: bool = True
    ) -> Record:
        record = policy_record(text, "cards", generation, number, of=of.id if of else "", mends=mends)
        self.tell(Event("add", record.id, record))
        return record

    def tell(self, *events: Event) -> None:
        apply(self.records, events, 0)

    def tree(self, breadth: int = 2, depth: int = 3) -> PolicyTree:
        return policy_tree(self.records.values(), breadth=breadth, depth=depth)

    def accept(self, record: Record, generation: int, *, best: bool = True) -> None:
        self.tell(*accept(record, self.tree().acting, generation, {}, best=best))

    def refuse(self, record: Record) -> None:
        self.tell(*refuse(record, {}))


def name(record: Record | None) -> str:
    return record.text if record else ""


def test_the_search_goes_deeper_from_what_was_accepted_and_back_to_what_waits_beside_it() -> None:
    search = Search()
    assert name(search.tree().at) == "root"
    first, second = (search.add(text, 1, n, of=search.root) for n, text in enumerate(("first", "second")))
    assert [each.text for each in search.tree().waiting(search.root)] == ["first", "second"]
    search.accept(first, 1)
    assert (name(search.tree().at), name(search.tree().acting)) == ("first", "first")
    for number in range(2):
        search.refuse(search.add(f"child {number}", 2, number, of=first))
    assert name(search.tree().at) == "root", "whose second child was not tried yet"
    search.accept(second, 3, best=False)
    assert (name(search.tree().at), name(search.tree().acting)) == ("second", "first")
    assert search.records[second.id].status == "retired"
    for number in range(2):
        search.refuse(search.add(f"grandchild {number}", 4, number, of=second))
    assert search.tree().at is None


def test_the_search_ends_where_it_is_as_deep_as_it_may_be() -> None:
    search = Search()
    for generation in (1, 2):
        search.accept(search.add(f"{generation}", generation, of=search.tree().at), generation)
    tree = search.tree(depth=2)
    assert [each.text for each in tree.path(tree.acting)] == ["root", "1", "2"]
    assert tree.at is None
    assert name(search.tree(depth=3).at) == "2"


def test_a_text_that_mended_nothing_takes_no_place_in_the_search() -> None:
    search = Search()
    for number in range(5):
        search.refuse(search.add("the same", 1, number, of=search.root, mends=False))
    assert search.tree().policies == (search.records[search.root.id],)
    assert name(search.tree().at) == "root"


def test_an_acceptance_that_is_taken_back_brings_the_old_policy_back() -> None:
    search = Search()
    child = search.add("child", 1, of=search.root)
    before: Mapping[str, Record] = dict(search.records)
    search.accept(child, 1)
    search.records = dict(before)  # as the ledger folds it after `revert`
    assert (name(search.tree().acting), name(search.tree().at)) == ("root", "root")
    search.tell(Event("forget", child.id))
    assert search.tree().children(search.root) == []


def test_a_memory_without_any_policy_says_so() -> None:
    with pytest.raises(SetupError, match="holds no policy"):
        policy_tree([], breadth=1, depth=1)
