"""`evolvent play` as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Evolvent


@pytest.fixture
def caller(tmp_path: Path) -> str:
    file = tmp_path / "caller.yaml"
    file.write_text("{rules: [], default: call}")
    return f"scripted:{file}"


def test_a_match_against_a_shipped_opponent_is_told_as_json_and_as_a_page(
    evolvent: Evolvent, caller: str, tmp_path: Path
) -> None:
    words = ("play", "cards", "--seat", f"a={caller}", "--seat", "b=bot:folds-to-raises", "--matches", 6)
    found = evolvent(*words, "--out", tmp_path / "out", "--json")
    assert found.code == 0
    told = found.json
    assert (told["env"], told["matches"], told["deals"], told["failed"]) == ("cards", 6, 3, 0)
    model, bot = told["standings"]
    assert (model["seat"], bot["seat"], bot["spec"], bot["calls"]) == ("a", "b", "bot:folds-to-raises", 0)
    assert model["score"]["mean"] + bot["score"]["mean"] == pytest.approx(1.0)
    assert model["score"].keys() == model["rating"].keys() == {"mean", "low", "high", "n"}
    page = evolvent(*words, "--out", tmp_path / "out")
    assert page.code == 0
    assert "6 matches over 3 deals" in page.out
    assert "bot:folds-to-raises" in page.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--seat a=SPEC --seat b=SPEC, or --all-generations DIR"),
        (("--seat", "a"), "--seat 'a': expected SEAT=SPEC"),
        (("--seat", "a=scripted:x"), "Nobody sits on b"),
        (("--seat", "a=smollm2", "--seat", "b=bot:cfx"), "cfr"),
        (("--all-generations", "nowhere"), "is not a run"),
    ],
)
def test_a_match_that_cannot_be_is_told_in_one_line(
    evolvent: Evolvent, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    said = evolvent("play", "cards", *words, "--out", tmp_path / "out")
    assert said.code == 2
    assert told in said.last
    assert not (tmp_path / "out").exists()
