"""Matches between agents: who may sit down, what is told of them, and that a folder of matches goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from duel_world import NAME as DUEL

from evolvent.agents import play as playing
from evolvent.agents.errors import RunDirectoryError, SetupError
from evolvent.agents.evaluation.rating import ratings
from evolvent.agents.play import Match, play_matches
from evolvent.agents.run import RunConfig, create, execute
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory


def script(folder: Path, name: str, move: str) -> str:
    file = folder / f"{name}.yaml"
    file.write_text(f"{{rules: [], default: {move}}}")
    return f"scripted:{file}"


def played(match: Match, out: Path, **how: Any) -> dict[str, Any]:
    return asyncio.run(play_matches(match, out, **how))


def duel(a: str, b: str, **how: Any) -> Match:
    return Match(environment=DUEL, seats={"a": a, "b": b}, **how)


def standing(found: Mapping[str, Any], seat: str) -> Mapping[str, Any]:
    return next(each for each in found["standings"] if each["seat"] == seat)


def test_equal_players_come_out_even_on_every_deal_whatever_the_cards(tmp_path: Path) -> None:
    spec = script(tmp_path, "rests", "rest")
    found = played(duel(spec, spec, matches=20), tmp_path / "out")
    assert found["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 10}
    assert found["verdict"] == "no evidence"
    assert standing(found, "a")["won"] == standing(found, "b")["won"] == 10


def test_the_better_player_is_told_with_an_interval_and_rated_higher(tmp_path: Path) -> None:
    grabs, rests = script(tmp_path, "grabs", "grab"), script(tmp_path, "rests", "rest")
    found = played(duel(grabs, rests, matches=40), tmp_path / "out")
    a, b = standing(found, "a"), standing(found, "b")
    assert found["verdict"] == "improved"
    assert found["difference"]["low"] > 0
    assert a["score"]["mean"] + b["score"]["mean"] == pytest.approx(1.0)
    assert a["rating"]["mean"] > b["rating"]["mean"]
    assert (a["matches"], a["calls"], found["deals"], found["failed"]) == (40, 40, 20, 0)
    other_way = played(duel(rests, grabs, matches=40), tmp_path / "other")
    assert other_way["verdict"] == "worse"
    assert other_way["difference"]["mean"] == pytest.approx(-found["difference"]["mean"])


def test_an_odd_number_of_matches_is_rounded_up_to_whole_deals(tmp_path: Path) -> None:
    spec = script(tmp_path, "rests", "rest")
    assert played(duel(spec, spec, matches=3), tmp_path / "out")["matches"] == 4


def test_matches_that_were_cut_off_go_on_and_tell_the_same(tmp_path: Path) -> None:
    spec = script(tmp_path, "grabs", "grab")
    match, out = duel(spec, spec, matches=8), tmp_path / "out"
    count = 0

    def stop(job: Any, episode: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        played(match.model_copy(update={"concurrency": 1}), out, on_episode=stop)
    again: list[str] = []
    found = played(match, out, on_episode=lambda job, episode: again.append(job.key))
    assert len(again) == 5
    assert found == {**played(match, tmp_path / "whole"), "out": str(out)}


def test_a_folder_of_other_matches_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    spec, out = script(tmp_path, "rests", "rest"), tmp_path / "out"
    played(duel(spec, spec, matches=2), out)
    before = (out / "match.json").read_text()
    with pytest.raises(RunDirectoryError, match="other matches"):
        played(duel(spec, spec, matches=4), out)
    assert (out / "match.json").read_text() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="already holds something"):
        played(duel(spec, spec), tmp_path / "full")


@pytest.mark.parametrize(
    ("match", "told"),
    [
        (Match(environment=DUEL, seats={"a": "scripted:x"}), "Nobody sits on b. Add --seat b=SPEC"),
        (Match(environment=DUEL, seats={"a": "x", "c": "x"}), "seat of duel_world:Duel.*'c'.*a, b"),
        (Match(environment=DUEL, seats={"a": "bot:best", "b": "smollm2"}), "'best'"),
        (Match(environment=DUEL, seats={"a": "bot:x", "b": "bot:y"}), "one model or generation at least"),
        (Match(environment="workshop", seats={"agent": "smollm2"}), "has one seat; a match needs two"),
        (Match(environment=DUEL, seats={"a": "run:nowhere@1", "b": "smollm2"}), "not a run"),
    ],
)
def test_who_cannot_play_is_told_before_anything_is_written(match: Match, told: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=told):
        played(match, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_seats_that_work_together_share_a_score_and_are_not_rated(tmp_path: Path) -> None:
    spec = script(tmp_path, "oil", "oil")
    seats = {"client": spec, "mender": spec}
    found = played(Match(environment="workshop", options={"seats": 2}, seats=seats, matches=4), tmp_path / "out")
    assert all(each["rating"] is None for each in found["standings"])
    assert "verdict" not in found


def test_a_shipped_partner_shares_the_score(tmp_path: Path) -> None:
    seats = {"a": script(tmp_path, "stays", "stay"), "b": "bot:greedy"}
    found = played(Match(environment="kitchen", options={"horizon": 60}, seats=seats, matches=2), tmp_path / "out")
    cook, partner = found["standings"]
    assert cook["score"] == partner["score"]
    assert cook["won"] == partner["won"]


def test_the_generations_of_a_run_meet_each_other_and_each_remembers_what_it_knew_then(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = RunConfig(
        recipe="lamarck",
        environment=DUEL,
        model=script(tmp_path, "grabs", "grab"),
        tasks=2,
        evaluated=4,
        generations=2,
        embedder="hash",
    )
    create(config, run)
    asyncio.run(execute(run))
    found = played(Match(environment=DUEL, tournament=str(run), matches=4), tmp_path / "out")
    names = [each["name"] for each in found["standings"]]
    assert names == ["generation 0", "generation 1", "generation 2"]
    assert found["matches"] == 3 * 4
    assert found["table"]["generation 0"]["generation 2"] == pytest.approx(0.5)
    with Memory.open(run, embedder=HashEmbedder(), read_only=True) as memory:
        commit = json.loads(memory.ledger.generations()[2])["model"]["memory"]
        known = {key for key, record in memory.snapshot(commit).records.items() if record.kind == "trajectory"}
    with Memory.open(tmp_path / "out", embedder=HashEmbedder(), read_only=True) as memory:
        seats = [each for episode in memory.ledger.episodes() for each in episode.trajectories]
    by_model: dict[str, set[str]] = {each.model: set() for each in seats}
    for each in seats:
        by_model[each.model] |= {one.record for one in each.recalled}
    assert not by_model[f"{config.model}@0"]
    assert by_model[f"{config.model}@2"] <= known
    assert by_model[f"{config.model}@2"]


def test_a_generation_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    run = tmp_path / "run"
    spec = script(tmp_path, "grabs", "grab")
    config = RunConfig(
        recipe="lamarck", environment=DUEL, model=spec, tasks=2, evaluated=2, generations=1, embedder="hash"
    )
    create(config, run)
    asyncio.run(execute(run))
    with pytest.raises(SetupError, match="no generation 7; it has finished 0 to 1"):
        played(duel(spec, f"run:{run}@7"), tmp_path / "out")


def test_a_match_that_infrastructure_failed_is_counted_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = script(tmp_path, "grabs", "grab")
    whole = playing.Rollouts.run

    async def one_fails(self: Any, environment: Any, jobs: Any) -> Any:
        from dataclasses import replace

        episodes = await whole(self, environment, jobs)
        lost = tuple(replace(each, outcome=replace(each.outcome, failure="model")) for each in episodes[0])
        return [lost, *episodes[1:]]

    monkeypatch.setattr(playing.Rollouts, "run", one_fails)
    found = played(duel(spec, spec, matches=4), tmp_path / "out")
    assert (found["matches"], found["failed"]) == (3, 1)
    assert found["verdict"] == "no evidence"


def test_who_wins_more_is_rated_higher_and_a_stranger_stays_unknown() -> None:
    found = ratings([{"x": 1.0, "y": 0.0}] * 30, ["x", "y", "stranger"])
    assert found["x"].low > found["y"].high
    assert found["stranger"].mean == pytest.approx(25)
    assert (found["x"].n, found["stranger"].n) == (30, 0)
