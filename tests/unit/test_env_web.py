from __future__ import annotations

import random
from typing import Any

import pytest

from evolvent.environments.errors import BadOptionError
from evolvent.environments.types import Action, StepResult, Task
from evolvent.environments.web import Web
from evolvent.environments.web_instructions import GRAMMAR, Instruction, grammatical, read_instruction
from evolvent.environments.web_pages import Browser
from evolvent.environments.web_tasks import KINDS

PAGES: list[list[dict[str, Any]]] = [
    [
        {"kind": "link", "id": "l0", "label": "Letters", "to": 1},
        {"kind": "text", "id": "note", "label": "Note"},
    ],
    [
        {"kind": "text", "id": "name", "label": "First name"},
        {"kind": "options", "id": "city", "label": "City", "choices": ["Oslo", "Lyon", "Cork"]},
        {"kind": "checkbox", "id": "news", "label": "newsletter"},
        {"kind": "button", "id": "send", "label": "Send"},
        {"kind": "link", "id": "back", "label": "Back", "to": 0},
    ],
]
GOAL = {"link": "l0", "values": {"name": "Ada", "city": "Lyon", "news": True}, "button": "send"}
TASK = Task("letters", "Fill the form in.", "web", {"kind": "fill-form", "pages": PAGES, "goal": GOAL})
FILLED = (
    "clickxpath //a[@id='l0']; clickxpath //input[@id='name']; type Ada; clickoption //option[text()='Lyon']; "
    "clickxpath //input[@id='news']; "
)


def played(script: str, task: Task = TASK) -> list[StepResult]:
    world = Web()
    world.reset(task, 0)
    results: list[StepResult] = []
    for line in script.split("; "):
        assert not (results and results[-1].done)
        results.append(world.step({"agent": Action(line)}))
    return results


def told(script: str) -> str:
    """First line of the last answer."""
    return played(script)[-1].observations[0].text.splitlines()[0]


def browser(script: str) -> Browser:
    opened = Browser(PAGES)
    for line in script.split("; "):
        instruction = read_instruction(line)
        assert instruction is not None, line
        opened.do(instruction)
    return opened


# -- the grammar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "verb", "argument"),
    [
        ("clickxpath //button[@id='b0']", "clickxpath", "//button[@id='b0']"),
        (" `ClickXPath  /html/body/a[1]`\n", "clickxpath", "/html/body/a[1]"),
        ("clickoption //option[text()='two words']", "clickoption", "//option[text()='two words']"),
        ("movemouse //a", "movemouse", "//a"),
        ("type Ada Lovelace", "type", "Ada Lovelace"),
        ('type "Ada"', "type", "Ada"),
        ('type "a" and "b"', "type", '"a" and "b"'),
        ("press ENTER", "press", "enter"),
    ],
)
def test_an_instruction_is_read_in_each_of_the_five_forms(text: str, verb: str, argument: str) -> None:
    assert read_instruction(text) == Instruction(verb, argument)  # type: ignore[arg-type]  # verb is a plain str here
    assert grammatical(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "click the button", "clickxpath", "clickxpath b0", "clickxpath //a\nclickxpath //b", "type", "type  "),
        *("press escape", "press", "1. press enter", "I will press enter", "press enter now", "type " + "x" * 500),
        *("clickxpath //a\nThen I wait.", "typed //a", "clickoption Lyon"),
    ],
)
def test_anything_else_is_ungrammatical(text: str) -> None:
    assert read_instruction(text) is None
    assert not grammatical(text)


# -- the browser -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("clickxpath //a[@id='l0']", "The link 'Letters' was followed."),
        ("clickxpath //a", "The link 'Letters' was followed."),
        ("clickxpath /html/body/a[1]", "The link 'Letters' was followed."),
        ('clickxpath //*[text()="Letters"]', "The link 'Letters' was followed."),
        ("clickxpath //label[text()='Note']", "The field 'Note' is focused."),
        ("clickxpath //button[@id='send']", "Nothing on the page matches //button[@id='send']."),
        ("clickxpath /button", "Nothing on the page matches /button."),
        ("clickxpath //body", "Nothing can be done with what matches //body."),
        ("clickxpath //a[contains(text(),'x')]", "//a[contains(text(),'x')] is not understood. Write //TAG[@id="),
        ("type hello", "No field is focused, so nothing was typed. Click a field first."),
        ("movemouse //a", "The mouse is over 'Letters'. Nothing changes."),
        ("clickoption //a", "'Letters' is no option of a list. Use clickxpath for it."),
        ("clickxpath //a; clickxpath //option[2]", "'Lyon' is an option of a list. Use clickoption for it."),
        ("clickxpath //a; clickxpath //select", "The list 'City' is focused. Use clickoption for one of its options."),
        ("clickxpath //a; clickoption //option[2]", "'Lyon' is chosen in 'City'."),
        ("clickxpath //input; type ab; type cd", "The field 'Note' holds 'abcd'."),
        ("clickxpath //input; type ab; press backspace", "The field 'Note' holds 'a'."),
        ("clickxpath //input; press enter", "Nothing happens on enter here."),
        ("press space", "Nothing happens on space here."),
        ("press tab", "'Letters' is focused."),
        ("press tab; press enter", "The link 'Letters' was followed."),
        ("press tab; press tab; press tab", "'Letters' is focused."),
        (
            "clickxpath //a; clickxpath //label[2]; press arrowdown; press arrowdown; press arrowdown",
            "'Cork' is chosen",
        ),
        ("clickxpath //a; clickxpath //label[2]; press arrowup", "'Oslo' is chosen in 'City'."),
        ("clickxpath //a; clickxpath //label[3]", "'newsletter' is ticked."),
        ("clickxpath //a; clickxpath //label[3]; press space", "'newsletter' is not ticked any more."),
        ("I click on Letters", "That is no instruction, and nothing was done. Write one line in one of these forms:"),
    ],
)
def test_every_instruction_is_answered_with_what_came_of_it(script: str, said: str) -> None:
    assert told(script).startswith(said)


def test_a_page_shows_what_was_done_on_it_and_keeps_it_when_left() -> None:
    opened = browser(FILLED + "clickxpath //a[text()='Back']; clickxpath //input; type so \"b\" & c")
    assert opened.html() == (
        '<body>\n  <a id="l0">Letters</a>\n  <label for="note">Note</label>\n'
        '  <input id="note" type="text" value="so &quot;b&quot; &amp; c">\n </body>'
    )
    opened.do(Instruction("clickxpath", "//a"))
    page = opened.html()
    assert '<input id="name" type="text" value="Ada">' in page
    assert '<option id="city-1" selected="selected">Lyon</option>' in page
    assert '<input id="news" type="checkbox" checked="checked">' in page
    assert opened.values == {"note": 'so "b" & c', "name": "Ada", "city": "Lyon", "news": True}
    assert opened.sent is None


def test_no_xpath_breaks_the_browser() -> None:
    rng = random.Random(0)
    marks = (
        "//",
        "/",
        "*",
        "[",
        "]",
        "@id",
        "=",
        "'x'",
        "(",
        ")",
        "text()",
        "a",
        "..",
        ".",
        "1",
        "-1",
        "!=",
        "|",
        ":",
        "{",
        "@",
    )
    opened = Browser(PAGES)
    for _ in range(5_000):
        path = "/" + "".join(rng.choices(marks, k=rng.randint(1, 9)))
        assert opened.do(Instruction("movemouse", path))


# -- episodes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "done", "success"),
    [
        (FILLED + "clickxpath //button", True, True),
        (FILLED + "clickxpath //input[@id='name']; press enter", True, True),
        (FILLED + "clickxpath //a[@id='back']", False, False),
        (FILLED + "clickxpath //input[@id='news']; clickxpath //button", True, False),
        (FILLED.replace("Ada", "ada") + "clickxpath //button", True, False),
        ("clickxpath //input; type x; " + FILLED + "clickxpath //button", True, False),
        ("clickxpath //a; clickxpath //button", True, False),
    ],
)
def test_a_reward_comes_at_the_end_alone_and_only_for_exactly_what_was_asked(
    script: str, done: bool, success: bool
) -> None:
    *earlier, last = played(script)
    assert all(result.rewards["agent"] == 0 and not result.done for result in earlier)
    assert (last.done, last.rewards["agent"]) == (done, float(success))
    assert last.info.get("success") == (success if done else None)


def test_what_is_no_instruction_costs_a_step_and_changes_nothing() -> None:
    wasted = played("click it; " + FILLED + "clickxpath //button")
    assert [result.info["grammatical"] for result in wasted] == [False] + [True] * 6
    assert all(form in wasted[0].observations[0].text for form in GRAMMAR)
    assert wasted[-1].info["success"] is True
    assert played("; ".join(["?"] * Web.max_steps))[-1].info["success"] is False


@pytest.mark.parametrize("pages", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_succeeds_and_without_its_last_step_nobody_does(kind: str, pages: int) -> None:
    world = Web(task=kind, pages=pages)
    for task in world.tasks("validation", 25, 1):
        script = world.expert(task)
        assert all(map(grammatical, script))
        assert len(script) < Web.max_steps
        assert played("; ".join(script), task)[-1].info["success"] is True
        if len(script) > 1:
            assert not played("; ".join(script[:-1]), task)[-1].done
        if len(script) > pages:
            assert played("; ".join([*script[: pages - 1], script[-1]]), task)[-1].info["success"] is False
        assert task.prompt.startswith("On the page ") == (pages == 2)


def test_mixed_deals_every_kind() -> None:
    assert {task.tags for task in Web().tasks("train", 6, 0)} == {(kind,) for kind in KINDS}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "shop"}, "web: task is one of mixed, click-button, .*, not 'shop'"),
        ({"pages": 3}, "web: pages is 1 or 2, not 3"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOptionError, match=said):
        Web(**options)
