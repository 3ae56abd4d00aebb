"""What a distillation left in a run's directory is read back as it was told, and shown on the run's page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import write_base

from evolvent.agents.details import read_details
from evolvent.agents.distilled_run import distil_run
from evolvent.agents.findings import read_findings
from evolvent.agents.flags import read_distillation
from evolvent.agents.forgotten import forgotten
from evolvent.agents.report import write_html
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, prepare
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.memory.ledger import Ledger

QUICK = ("steps=2", "pairs=4", "rehearse=0")
ELSEWHERE = ((EnvironmentSpec("labelled", {"task": "plain"}), 6),)
SEED = 3


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    base = write_base(tmp_path_factory.mktemp("base"))
    config = RunConfig(
        recipe="lamarck",
        options={"world": 0},
        model=f"hf:{base}",
        tasks=4,
        evaluated=4,
        generations=1,
        seed=SEED,
        embedder="hash",
        settings={"candidates": 1, "gate_pairs": 4},
    )
    directory = create(config, tmp_path_factory.mktemp("run") / "run")
    run_sync(execute(directory))
    work = distil_run(
        directory, read_distillation("sft", QUICK), prepare(config), evaluated=4, elsewhere=ELSEWHERE, texts=3
    )
    return directory, run_sync(work)


@pytest.fixture
def ledger(distilled: tuple[Path, dict[str, Any]]) -> Iterator[Ledger]:
    found = Ledger(distilled[0] / "ledger.sqlite", read_only=True)
    yield found
    found.close()


def test_changes_of_abilities_are_those_the_distillation_told(
    distilled: tuple[Path, dict[str, Any]], ledger: Ledger
) -> None:
    _, told = distilled
    found = forgotten(ledger, seed=SEED)
    assert found.keys() == {told["adapter"]}
    changes = found[told["adapter"]]
    assert changes.keys() == told["forgetting"].keys() == {"plain", "prose"}
    for name, change in changes.items():
        assert {"mean": change.mean, "low": change.low, "high": change.high, "n": change.n} == told["forgetting"][name]


def test_the_page_of_a_distilled_run_shows_its_adapter_and_what_was_forgotten(
    distilled: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    directory, told = distilled
    (distillate,) = read_details(read_findings(directory)).adapters
    assert distillate.adapter.full_name == told["adapter"]
    assert distillate.decision is not None
    assert distillate.decision.gate["verdict"] == told["gate"]["verdict"]
    write_html(directory, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Adapters (1)" in page
    assert "What distilling made it forget" in page
    assert f"{told['forgetting']['prose']['mean']:+.3f}" in page
    assert f"{distillate.adapter.card.parameters:,} parameters" in page


def test_a_card_that_cannot_be_read_is_one_adapter_less_and_no_end(
    distilled: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(distilled[0], tmp_path / "run"))
    (card,) = copy.glob("adapters/*/card.json")
    card.write_bytes(b"\xff{")
    found = read_details(read_findings(copy))
    assert found.adapters == ()
    assert found.forgetting, "the ledger still tells"
    assert str(card.parent) in caplog.text
