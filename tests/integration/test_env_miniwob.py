"""MiniWoB++ in a real browser. Its package is not in the development extras: `pip install -e '.[web]'`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evolvent.environments import catalog
from evolvent.environments.errors import BadOptionError, MissingPackageError
from evolvent.environments.miniwob import TRIED, MiniWoB, browser_programs
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Action, StepResult
from evolvent.environments.web_instructions import grammatical

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("miniwob") is None or browser_programs() is None,
    reason="needs the package miniwob, Chromium and chromedriver",
)


def _checkboxes(prompt: str) -> list[str]:
    names = prompt.removeprefix("Select ").removesuffix(" and click Submit.")
    chosen = [] if names == "nothing" else names.split(", ")
    return [f"clickxpath //label[text()='{name}']/input" for name in chosen]


def _quoted(prompt: str) -> list[str]:
    return re.findall('"(.*?)"', prompt)


SCRIPTS: dict[str, Callable[[str], list[str]]] = {
    "click-test-2": lambda prompt: [],
    "click-checkboxes": _checkboxes,
    "enter-text": lambda prompt: ["clickxpath //input", f"type {_quoted(prompt)[0]}"],
    "choose-list": lambda prompt: [f"clickoption //option[text()='{prompt[7:].split(' from ')[0]}']"],
    "login-user": lambda prompt: [
        line
        for field, text in zip(("username", "password"), _quoted(prompt), strict=True)
        for line in (f"clickxpath //input[@id='{field}']", f"type {text}")
    ],
}


@pytest.fixture(params=TRIED)
def world(request: pytest.FixtureRequest) -> Iterator[MiniWoB]:
    built = MiniWoB(task=request.param)
    yield built
    built.close()


def played(world: MiniWoB, lines: list[str]) -> list[StepResult]:
    return [world.step({"agent": Action(line)}) for line in lines]


def test_each_tried_task_is_done_by_its_script_and_failed_without_it(world: MiniWoB) -> None:
    for task in world.tasks("train", 5, 0):
        lines = [*SCRIPTS[task.tags[0]](task.prompt), "clickxpath //button"]
        assert all(map(grammatical, lines))
        world.reset(task, 0)
        *earlier, last = played(world, lines)
        assert not any(result.done for result in earlier)
        assert (last.done, last.rewards["agent"], last.info["success"]) == (True, 1.0, True)
        world.reset(task, 0)
        wrong = "//button[2]" if task.tags[0] == "click-test-2" else "//button"
        (failed,) = played(world, [f"clickxpath {wrong}"])
        if task.prompt != "Select nothing and click Submit.":
            assert (failed.done, failed.info["success"]) == (True, False)
            assert 0 <= failed.rewards["agent"] < 1  # the package gives part of it for boxes that were left rightly


def test_a_page_shows_what_was_done_and_hides_its_frame() -> None:
    world = MiniWoB(task="enter-text")
    try:
        (task,) = world.tasks("test", 1, 0)
        (first,) = world.reset(task, 0)
        assert 'id="tt" value=""' in first.text
        assert not re.search(r"query|reward|data-|style=|<script", first.text)
        typed, pressed, missed, unread = played(
            world, ["clickxpath //input", "type ab", "press backspace", "clickxpath //nav", "click it"]
        )[1:]
        assert 'value="ab"' in typed.observations[0].text
        assert 'value="a"' in pressed.observations[0].text
        assert "could not do this: clickxpath //nav. no such element" in missed.observations[0].text
        assert unread.observations[0].text.startswith("That is no instruction")
        assert world.reset(task, 0) == (first,)
    finally:
        world.close()


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary folder with a short path: the browser opens a socket below it, whose path may have 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_browser_that_was_killed_leaves_nothing_for_long(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    monkeypatch.setenv("TMPDIR", str(short))
    world = catalog.build(EnvironmentSpec("miniwob"))
    world.tasks("train", 1, 0)
    (left,) = short.glob("evolvent-miniwob-*")
    world.close()
    assert left.exists()
    again = MiniWoB()
    again.tasks("train", 1, 0)
    assert not left.exists()
    again.close()
    assert not list(short.glob("evolvent-miniwob-*"))


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        BadOptionError, match=r"miniwob: task is one of .*, not 'login-usr'\. Did you mean 'login-user'"
    ):
        catalog.build(EnvironmentSpec("miniwob", {"task": "login-usr"}))


def test_without_a_browser_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world = MiniWoB()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingPackageError, match="apt install chromium chromium-driver"):
        world.tasks("train", 1, 0)
