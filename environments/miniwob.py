"""MiniWoB++: browser tasks, played in Chromium by the instructions of `web_instructions`.

What differs from the package, and why:

- An episode has no clock, or a slow model would fail at what it can do, and the reward would depend on the machine.
- Effects of jQuery are switched off, so that a page is the same however soon it is read.
- The task's sentence is its prompt; the page is shown without it, as HTML of what can be seen.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolvent.environments.errors import BadOptionError, MissingPackageError, did_you_mean
from evolvent.environments.solo import SEAT, written
from evolvent.environments.splits import game_seed
from evolvent.environments.types import Action, Observation, Split, StepResult, Task
from evolvent.environments.web import INSTRUCTIONS, UNREAD
from evolvent.environments.web_instructions import Instruction, read_instruction

VERSION = 1
TRIED = ("click-test-2", "click-checkboxes", "enter-text", "choose-list", "login-user")
"""Tasks that our tests play to the end."""
_FOLDER = "evolvent-miniwob"
_NO_CLOCK_MS = 2**31 - 1
"""A browser's longest timer: 25 days."""
_PREPARE = f"core.EPISODE_MAX_TIME = {_NO_CLOCK_MS}; if (window.jQuery) jQuery.fx.off = true;"
_PAGE = """
const copy = document.body.cloneNode(true);
const pairs = [...document.body.querySelectorAll('*')].map((each, at) => [each, copy.querySelectorAll('*')[at]]);
for (const [now, shown] of pairs) {
  if (now.tagName === 'INPUT' || now.tagName === 'TEXTAREA') {
    shown.toggleAttribute('checked', now.checked === true);
    shown.setAttribute('value', now.value);
  }
  if (now.tagName === 'OPTION') shown.toggleAttribute('selected', now.selected);
}
for (const [now, shown] of pairs) {
  const seen = now.tagName === 'OPTION' || now.getClientRects().length > 0;
  const frame = ['query', 'click-canvas', 'reward-display', 'sync-task-cover'].includes(now.id);
  if (!seen || frame || now.tagName === 'SCRIPT') { shown.remove(); continue; }
  for (const name of shown.getAttributeNames())
    if (name === 'style' || name.startsWith('data-') || name.startsWith('aria-')) shown.removeAttribute(name);
}
return copy.innerHTML.replace(/\\s*\\n\\s*/g, '\\n').trim();
"""


class MiniWoB:
    """One task of MiniWoB++ (arXiv 1802.08802) in a browser of its own; built at first use, in about four seconds.

    Score is the task's own reward, less than nothing being nothing; success is the full one. A task's hidden data hold
    its `seed`.

    Args:
        task: name of one of the package's tasks. Those that need dragging or a place on the screen cannot be done.

    Raises:
        BadOptionError: no task of this name.
        MissingPackageError: when first used, where there is no Chromium or no driver for it.
    """

    players = (SEAT,)
    instructions = INSTRUCTIONS
    max_steps = 15

    def __init__(self, *, task: str = "click-test-2") -> None:
        names = _names()
        if task not in names:
            hint = did_you_mean(task, names)
            raise BadOptionError(f"miniwob: task is one of the package's {len(names)}, not {task!r}.{hint}")
        self._name = task
        self._browser: Any = None  # selenium has no types for what the package makes of it
        self._folder = Path()
        self._steps = 0
        self._told: dict[int, str] = {}

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` tasks; each costs a tenth of a second, for the browser has to say its sentence."""
        seeds = dict.fromkeys(game_seed(f"miniwob/{self._name}", split, seed, index) for index in range(2 * n))
        return [self._task(split, drawn) for drawn in list(seeds)[:n]]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._steps = 0
        self._begin(task.data["seed"])
        return (Observation(SEAT, self._page()),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._browser is None:
            raise RuntimeError("reset comes before step")
        self._steps += 1
        instruction = read_instruction(written(actions))
        told = UNREAD if instruction is None else self._do(instruction)
        state = self._browser.get_metadata()
        info: dict[str, Any] = {"grammatical": instruction is not None}
        if not state["done"] and self._steps < self.max_steps:
            return StepResult((Observation(SEAT, f"{told}\n{self._page()}"),), {SEAT: 0.0}, False, info)
        score = min(1.0, max(0.0, float(state["raw_reward"]))) if state["done"] else 0.0
        success = score >= 1.0
        result = "That was right." if success else "That was not what was asked for."
        end = Observation(SEAT, f"{told}\n{result}", None, must_act=False)
        return StepResult((end,), {SEAT: score}, True, {**info, "success": success})

    def close(self) -> None:
        if self._browser is not None:
            self._browser.close()
            self._browser = None
            shutil.rmtree(self._folder, ignore_errors=True)  # the browser may still be writing its last lines

    def _task(self, split: Split, seed: int) -> Task:
        if seed not in self._told:
            self._told[seed] = self._begin(seed)
        return Task(f"{self._name}-{split}-{seed}", self._told[seed], "miniwob", {"seed": seed}, (self._name,))

    def _begin(self, seed: int) -> str:
        """Starts an episode; its sentence."""
        if self._browser is None:
            self._browser, self._folder = _browser(self._name)
        self._browser.force_stop()
        self._browser.driver.execute_script(_PREPARE)
        self._browser.begin_task(seed=str(seed))
        said: Any = self._browser.driver.execute_script("return core.getUtterance();")
        return " ".join(str(said["utterance"] if isinstance(said, dict) else said).split())

    def _page(self) -> str:
        return str(self._browser.driver.execute_script(_PAGE))

    def _do(self, instruction: Instruction) -> str:
        """Carries an instruction out; what came of it, in a sentence."""
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        driver, hands = self._browser.driver, ActionChains(self._browser.driver)
        said = f"{instruction.verb} {instruction.argument}"
        try:
            match instruction.verb:
                case "type":
                    hands.send_keys(instruction.argument).perform()
                case "press":
                    key = {"arrowup": "ARROW_UP", "arrowdown": "ARROW_DOWN"}.get(instruction.argument)
                    hands.send_keys(getattr(Keys, key or instruction.argument.upper())).perform()
                case "movemouse":
                    hands.move_to_element(driver.find_element(By.XPATH, instruction.argument)).perform()
                case _:
                    driver.find_element(By.XPATH, instruction.argument).click()
        except WebDriverException as error:
            reason = (error.msg or type(error).__name__).partition(":")[0].partition("\n")[0]
            return f"The browser could not do this: {said}. {reason[:100]}"
        return f"Done: {said}."


def _names() -> list[str]:
    """Tasks of the installed package, which is not imported for it."""
    found = importlib.util.find_spec("miniwob")
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError('miniwob is not installed. Install it: pip install "evolvent[web]"')
    pages = Path(found.submodule_search_locations[0], "html", "miniwob")
    return sorted(page.stem for page in pages.glob("*.html"))


def browser_programs() -> tuple[str, str] | None:
    """Paths of Chromium (or Chrome) and of its driver; None where one is missing."""
    browsers = [path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))]
    driver = shutil.which("chromedriver")
    return (browsers[0], driver) if browsers and driver else None


def _browser(task: str) -> tuple[Any, Path]:
    """A started browser on a task's page, and the folder it writes to."""
    programs = browser_programs()
    if programs is None:
        raise MissingPackageError(
            "miniwob needs Chromium and chromedriver on PATH. Install them: apt install chromium chromium-driver"
        )
    from miniwob.selenium_instance import SeleniumInstance

    folder = _folder()
    settings = {
        "TMPDIR": str(folder),
        "MINIWOB_CHROME_BINARY": programs[0],  # without these two, selenium looks for a browser in the network
        "MINIWOB_CHROMEDRIVER": programs[1],
    }
    browser = SeleniumInstance(index=0, subdomain=task, headless=True, threading=False)
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        browser.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    browser.driver.implicitly_wait(0)  # what is not on the page now is not waited for
    return browser, folder


def _folder() -> Path:
    """A folder for what the browser leaves behind. Those of workers that were killed are cleared away first."""
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{_FOLDER}-*-*"):
        if not Path("/proc", left.name.split("-")[-2]).exists():
            shutil.rmtree(left, ignore_errors=True)  # another user's is theirs to clear
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}-{os.getpid()}-", dir=place))
