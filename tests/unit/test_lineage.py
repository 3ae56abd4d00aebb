"""Lineage: why a record exists, what falls with a trajectory, whom it is trusted by, and the graph of it all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evolvent.environments.types import Action, Observation, Outcome, Recalled, Step, Task, Trajectory
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import BadEventError, GraphTooLargeError, UnknownRecordError
from evolvent.memory.fsck import fsck
from evolvent.memory.graph import draw, graph, write_graphml
from evolvent.memory.ledger import Ledger
from evolvent.memory.lineage import Lineage
from evolvent.memory.rendering import trajectory_record
from evolvent.memory.store import Memory
from evolvent.memory.trust import quarantined
from evolvent.memory.types import Event, Record, Scope, new_record

RUST, CRACK = "To mend the rust, use the {action}.", "To mend the crack, use the {action}."
FILE = new_record("rule", RUST.format(action="file"), Scope("workshop"), parents=("t1", "t2"), meta={"situation": RUST})
CLAMP = new_record("rule", CRACK.format(action="clamp"), Scope("workshop"), parents=("t1",), meta={"situation": CRACK})
BOTH = new_record("rule", "File the rust, then clamp the crack.", Scope("workshop"), parents=(FILE.id, CLAMP.id))
DATA = new_record("note", "120 preferences for training", parents=(CLAMP.id,))


def add(*records: Record) -> list[Event]:
    return [Event("add", record.id, record) for record in records]


def trajectory(name: str, *, shown: Sequence[str] = (), withheld: Sequence[str] = (), score: float = 1.0) -> Trajectory:
    def step(frame: str, action: str, reward: float) -> Step:
        seen = Observation("smith", f"Before you: {frame}", frame=frame)
        return Step("smith", seen, (), action, Action(action), reward=reward)

    return Trajectory(
        name,
        Task("hinge-1", "Mend the hinge.", "workshop"),
        "smith",
        (step(RUST, "file", 0.5), step(CRACK, "glue", 0.0), step(CRACK, "clamp", 0.5)),
        Outcome(score, score == 1.0),
        recalled=(
            *(Recalled(record, True, 0.75) for record in shown),
            *(Recalled(record, False, 0.75) for record in withheld),
        ),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Two trajectories; two rules, one of them from both; a rule and a data set derived from those."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for name in ("t1", "t2"):
        ledger.add_episode(f"train/0/{name}", [trajectory(name)])
    ledger.commit("0/remember", add(FILE, CLAMP, BOTH, DATA), generation=0)
    gate = {"wins": 12, "losses": 1, "ties": 3, "mean": 0.4, "e_value": 61.25, "level": 0.02, "verdict": "promoted"}
    ledger.commit("0/gate", [Event("activate", FILE.id, payload={"gate": gate})], generation=0)
    yield ledger
    ledger.close()


def lineage(ledger: Ledger) -> Lineage:
    return Lineage(ledger.records(), ledger)


# -- why -------------------------------------------------------------------------------------------------------------


def test_why_leads_to_the_steps_in_which_the_rules_situation_came_up(ledger: Ledger) -> None:
    why = lineage(ledger).why(CLAMP.id)
    (cause,) = why.causes
    assert cause.source is not None
    assert (cause.id, cause.edge, cause.depth) == ("t1", "derived", 1)
    assert [(step.index, step.action, step.reward) for step in cause.source.steps] == [
        (1, "glue", 0),
        (2, "clamp", 0.5),
    ]


def test_why_of_a_rule_without_a_situation_shows_the_rewarded_steps(ledger: Ledger) -> None:
    plan = new_record("rule", "Look before you mend.", parents=("t1",))
    ledger.commit("1", add(plan), generation=1)
    (cause,) = lineage(ledger).why(plan.id).causes
    assert cause.source is not None
    assert [step.action for step in cause.source.steps] == ["file", "clamp"]


def test_why_follows_records_down_to_their_trajectories(ledger: Ledger) -> None:
    why = lineage(ledger).why(BOTH.id)
    assert [(cause.depth, cause.id) for cause in why.causes] == [
        *((1, FILE.id), (2, "t1"), (2, "t2")),
        *((1, CLAMP.id), (2, "t1")),
    ]


def test_why_reads_as_a_text(ledger: Ledger) -> None:
    assert str(lineage(ledger).why(FILE.id)).splitlines() == [
        f"{FILE.id}  active, generation 0, trust 1.00",
        "  To mend the rust, use the file.",
        f"  activate at 0/gate ({ledger.head()}): 12 pairs better, 1 worse, 3 equal; e-value 61.2, needed 50",
        "  t1  task hinge-1, generation 0, score 1.00 (success)",
        "    step 0: Before you: To mend the rust, use the {action}. > file (+0.50)",
        "  t2  task hinge-1, generation 0, score 1.00 (success)",
        "    step 0: Before you: To mend the rust, use the {action}. > file (+0.50)",
    ]


def test_why_says_what_was_merged_and_what_is_not_in_the_ledger(ledger: Ledger) -> None:
    twin = new_record("rule", "Use the file on rust.", Scope("workshop"), parents=("lost",))
    ledger.commit("1", [*add(twin), Event("merge", twin.id, payload={"into": FILE.id})], generation=1)
    causes = {cause.id: cause for cause in lineage(ledger).why(FILE.id).causes}
    assert causes[twin.id].edge == "merged"
    assert (causes["lost"].record, causes["lost"].source, causes["lost"].depth) == (None, None, 2)


def test_why_ends_where_records_name_each_other(ledger: Ledger) -> None:
    a, b = new_record("rule", "a"), new_record("rule", "b")
    circle = [Event("update", a.id, payload={"parents": [b.id]}), Event("update", b.id, payload={"parents": [a.id]})]
    ledger.commit("1", [*add(a, b), *circle], generation=1)
    assert [cause.id for cause in lineage(ledger).why(a.id).causes] == [b.id, a.id]


def test_asking_about_an_unknown_name_is_a_clear_error(ledger: Ledger) -> None:
    for ask in (lineage(ledger).why, lineage(ledger).impact, lineage(ledger).forget_events):
        with pytest.raises(UnknownRecordError, match="rule-nonsense"):
            ask("rule-nonsense")


# -- impact and forgetting -------------------------------------------------------------------------------------------


def test_impact_names_what_is_derived_of_any_kind_and_what_would_fall(ledger: Ledger) -> None:
    ledger.add_episode("train/1/t3", [trajectory("t3", shown=[BOTH.id], withheld=[CLAMP.id])])
    ledger.add_episode("train/1/t4", [trajectory("t4", withheld=[CLAMP.id])])
    impact = lineage(ledger).impact("t1")
    assert impact.derived == (FILE.id, CLAMP.id, BOTH.id, DATA.id)
    assert impact.only == (CLAMP.id, DATA.id)
    assert impact.episodes == ("t3",)
    assert lineage(ledger).impact(CLAMP.id).derived == (BOTH.id, DATA.id)


def test_forgetting_a_trajectory_takes_what_rests_on_it_alone_and_leaves_the_rest(ledger: Ledger) -> None:
    raw = trajectory_record(trajectory("t1"))
    ledger.commit("1", add(raw), generation=1)
    events = lineage(ledger).forget_events("t1")
    assert {event.record_id for event in events if event.kind == "forget"} == {raw.id, CLAMP.id, DATA.id}
    updates = {event.record_id: event.payload["without_parents"] for event in events if event.kind == "update"}
    assert updates == {FILE.id: ["t1"], BOTH.id: [CLAMP.id]}


def test_forgetting_a_record_takes_the_record_and_what_rests_on_it(ledger: Ledger) -> None:
    assert [(event.kind, event.record_id) for event in lineage(ledger).forget_events(CLAMP.id)] == [
        ("forget", CLAMP.id),
        ("forget", DATA.id),
        ("update", BOTH.id),
    ]


def test_records_that_only_name_each_other_fall_together(ledger: Ledger) -> None:
    a, b = new_record("rule", "a", parents=("t9",)), new_record("rule", "b")
    circle = [Event("update", a.id, payload={"parents": [b.id]}), Event("update", b.id, payload={"parents": [a.id]})]
    ledger.commit("1", [*add(a, b), *circle], generation=1)
    assert {event.record_id for event in lineage(ledger).forget_events("t9")} == {a.id, b.id}


def test_forgetting_is_one_commit_that_the_index_follows_and_revert_undoes(tmp_path: Path) -> None:
    with Memory.open(tmp_path, embedder=HashEmbedder(64)) as memory:
        memory.add_episode("train/0/t1", [trajectory("t1")])
        memory.commit("0/remember", add(FILE, CLAMP, BOTH, DATA, trajectory_record(trajectory("t1"))), generation=3)
        before = dict(memory.records())
        forgotten = memory.forget("t1", note="asked for")
        assert set(memory.records()) == {FILE.id, BOTH.id}
        assert memory.records()[FILE.id].parents == ("t2",)
        assert memory.search("clamp the crack", k=5, kinds=["rule"])[0].record.id == BOTH.id
        assert fsck(memory) == []
        assert memory.forget("t1") == forgotten, "nothing is left to forget"
        memory.revert(forgotten)
        assert dict(memory.records()) == before
        assert fsck(memory) == []
        assert memory.forget("t1") != forgotten
        assert set(memory.records()) == {FILE.id, BOTH.id}


names = st.sampled_from([f"n{i}" for i in range(7)])


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path_factory.mktemp("empty") / "ledger.sqlite")
    yield ledger
    ledger.close()


@settings(max_examples=60, deadline=None)
@given(parents=st.dictionaries(names, st.sets(st.one_of(names, st.sampled_from(["t", "u", "v"])), min_size=1)))
def test_what_falls_is_exactly_what_rests_on_nothing_else(empty: Ledger, parents: dict[str, set[str]]) -> None:
    """By the definition: who descends from t stands when a path that avoids t leads up to something that does not."""
    records = {
        name: Record(name, "rule", name, parents=tuple(sorted(above - {name})) or ("u",))
        for name, above in parents.items()
    }
    above = nx.DiGraph([("t", "root"), *((key, each) for key, record in records.items() for each in record.parents)])
    derived = nx.ancestors(above, "t")
    grounds = set(above) - derived - {"t", "root"}
    without_t = above.subgraph(set(above) - {"t"})
    stands = {key for key in derived if nx.descendants(without_t, key) & grounds}
    asked = Lineage(records, empty)
    assume("t" in asked.children)
    impact = asked.impact("t")
    assert set(impact.derived) == derived
    assert set(impact.only) == derived - stands


# -- trust -----------------------------------------------------------------------------------------------------------

STRANGE = new_record("rule", "Always use the oil.", Scope("workshop"), meta={"trust": 0.0})


def statuses(events: Sequence[Event]) -> dict[str, str]:
    return {event.record_id: event.record.status for event in events if event.record is not None}


def test_trust_is_the_least_of_all_ancestors_and_passes_through_prompts(ledger: Ledger) -> None:
    half = new_record("note", "hearsay", meta={"trust": 0.75})
    read = new_record("rule", "read in an episode", parents=("t3",))
    later = new_record("rule", "learned from that", parents=(read.id, half.id))
    ledger.add_episode("train/1/t3", [trajectory("t3", shown=[STRANGE.id])])
    ledger.add_episode("train/1/t4", [trajectory("t4", withheld=[STRANGE.id])])
    kept_away = new_record("rule", "never saw it", parents=("t4", half.id))
    ledger.commit("1", add(STRANGE, half, read, later, kept_away), generation=1)
    asked = lineage(ledger)
    trusts = {key: asked.trust(key) for key in (STRANGE.id, "t3", read.id, later.id, "t4", kept_away.id, FILE.id)}
    assert list(trusts.values()) == [0, 0, 0, 0, 1, 0.75, 1]


def test_what_nobody_vouches_for_and_all_that_comes_of_it_starts_quarantined(ledger: Ledger) -> None:
    ledger.add_episode("train/1/t3", [trajectory("t3", shown=[STRANGE.id])])
    read = new_record("rule", "read in an episode", parents=("t3",))
    later = new_record("rule", "learned from that", parents=(read.id,))
    events = quarantined(ledger, add(later, read, STRANGE, CLAMP, new_record("rule", "sound", parents=("t2",))))
    assert sorted(statuses(events).values()) == ["candidate", "candidate", *3 * ["quarantined"]]
    ledger.commit("1", quarantined(ledger, add(STRANGE)), generation=1)
    assert statuses(quarantined(ledger, add(read, later))) == {read.id: "quarantined", later.id: "quarantined"}


def test_a_stranger_who_repeats_a_known_rule_does_not_take_it_away(ledger: Ledger) -> None:
    repeated = replace(FILE, meta={"trust": 0.0}, parents=(STRANGE.id,))
    ledger.commit("1", quarantined(ledger, add(STRANGE, repeated)), generation=1)
    assert ledger.records()[FILE.id].status == "active"


def test_events_pass_unchanged_where_all_is_trusted(ledger: Ledger) -> None:
    events = [*add(new_record("rule", "new", parents=("t1",))), Event("retire", FILE.id)]
    assert quarantined(ledger, events) == events


@pytest.mark.parametrize("value", [-0.1, 1.5, "high", None])
def test_a_trust_that_is_no_share_is_refused_by_value(ledger: Ledger, value: object) -> None:
    with pytest.raises(BadEventError, match=f"states trust {value!r}"):
        quarantined(ledger, add(new_record("rule", "new", meta={"trust": value})))


# -- graph -----------------------------------------------------------------------------------------------------------


def test_the_graph_has_records_trajectories_and_how_they_hang_together(ledger: Ledger) -> None:
    ledger.add_episode("train/1/t3", [trajectory("t3", shown=[FILE.id])])
    ledger.add_episode("eval/1/t4", [trajectory("t4", shown=[FILE.id])])
    learned = new_record("rule", "Learned later.", parents=("t3", "lost"), meta={"trust": 0.25})
    twin = new_record("rule", "Use the file.", parents=("t2",))
    merge = Event("merge", twin.id, payload={"into": FILE.id})
    ledger.commit("1", [*add(learned, twin), merge], generation=1)
    found = graph(lineage(ledger))
    assert set(found) == {*ledger.records(), "t1", "t2", "t3", "lost"}, "t4 taught nothing"
    assert found.edges[FILE.id, "t3"]["edge"] == "shown"
    assert found.edges["t3", learned.id]["edge"] == "derived"
    assert found.edges[twin.id, FILE.id]["edge"] == "merged"
    assert found.nodes["lost"]["kind"] == "missing"
    assert found.nodes["t1"] == {
        **{"kind": "episode", "status": "", "text": "hinge-1, score 1.00", "generation": 0, "trust": 1.0},
    }
    assert found.nodes[learned.id]["trust"] == 0.25


def test_a_neighbourhood_ends_at_its_depth(ledger: Ledger) -> None:
    asked = lineage(ledger)
    assert set(graph(asked, around=DATA.id, depth=0)) == {DATA.id}
    assert set(graph(asked, around=DATA.id, depth=1)) == {DATA.id, CLAMP.id}
    assert set(graph(asked, around=DATA.id, depth=2)) == {DATA.id, CLAMP.id, BOTH.id, "t1"}
    assert set(graph(asked, around="t2", depth=1)) == {"t2", FILE.id}
    with pytest.raises(UnknownRecordError, match="nothing"):
        graph(asked, around="nothing")


def test_graphml_is_read_back_as_it_was_written(ledger: Ledger, tmp_path: Path) -> None:
    odd = new_record("note", "<&> “quoted” \x00\x1b ☃", parents=("t1",))
    ledger.commit("1", add(odd), generation=1)
    found = graph(lineage(ledger))
    write_graphml(found, tmp_path / "lineage.graphml")
    again = nx.read_graphml(tmp_path / "lineage.graphml")
    assert dict(again.nodes(data=True)) == dict(found.nodes(data=True))
    assert list(again.edges(data=True)) == list(found.edges(data=True))


def test_a_drawing_is_the_same_bytes_each_time_and_names_every_node(ledger: Ledger, tmp_path: Path) -> None:
    price = new_record("note", "costs $5 or $6", parents=("t1",))
    ledger.add_episode("train/1/t3", [trajectory("t3", shown=[FILE.id])])
    again = Event("update", FILE.id, payload={"parents": ["t3"]})  # taught again where it was shown: a circle
    ledger.commit("1", [*add(price), again], generation=1)
    found = graph(lineage(ledger), around="t1", depth=3)
    for name in ("one.svg", "two.svg", "one.png"):
        draw(found, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    words = "".join(ElementTree.fromstring(drawn).itertext())
    assert all(key in words for key in found)
    assert "costs $5 or $6" in words
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_episodes_that_only_show_the_same_record_are_drawn_as_one_box(ledger: Ledger, tmp_path: Path) -> None:
    found = nx.DiGraph()
    facts = {"status": "", "text": "", "generation": 0, "trust": 1.0}
    found.add_node("rule-1", kind="rule", **facts)
    for number in range(20):
        found.add_node(f"episode-{number:02}", kind="episode", **facts)
        found.add_edge("rule-1", f"episode-{number:02}", edge="shown")
    draw(found, tmp_path / "one.svg")
    words = "".join(ElementTree.fromstring((tmp_path / "one.svg").read_text()).itertext())
    assert "14 more episodes" in words
    assert "episode-05" in words
    assert "episode-06" not in words
    assert len(found) == 21, "the graph that was handed in stays as it was"


def test_more_than_a_drawing_can_show_is_refused_with_a_way_out(tmp_path: Path) -> None:
    found = nx.DiGraph()
    found.add_nodes_from(range(301))
    with pytest.raises(GraphTooLargeError, match=r"301 nodes .* smaller depth"):
        draw(found, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()
