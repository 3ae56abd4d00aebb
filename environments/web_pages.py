"""A small browser of our own: a site of few pages with buttons, boxes, fields, lists and links, used by instructions.

A page is shown as simplified HTML in which everything that can be used has an id. Nothing is fetched or executed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evolvent.environments.web_instructions import Instruction

Value = str | bool


@dataclass(frozen=True, slots=True)
class Control:
    """Something on a page that can be used."""

    kind: Literal["button", "checkbox", "text", "password", "options", "link"]
    id: str
    """Unique in its site."""
    label: str
    choices: Sequence[str] = ()
    """Of `options`; the first is chosen at the start."""
    to: int = 0
    """Index of the page a link leads to."""

    @property
    def start(self) -> Value:
        """Its value before anybody used it."""
        return False if self.kind == "checkbox" else self.choices[0] if self.kind == "options" else ""


class Browser:
    """A site in use, from its first page on. Values stay when the page changes; clicking a button sends them all.

    Args:
        pages: the controls of each page, from top to bottom, as mappings with `Control`'s fields.
    """

    def __init__(self, pages: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        self._pages = [[Control(**control) for control in page] for page in pages]
        controls = [control for page in self._pages for control in page]
        self.values = {each.id: each.start for each in controls if each.kind not in ("button", "link")}
        self.sent: str | None = None
        """Id of the button that sent the form; None as long as nothing was sent."""
        self._page = 0
        self._focus: Control | None = None

    def html(self) -> str:
        tree = self._tree()
        ET.indent(tree, " ")
        return ET.tostring(tree[0], encoding="unicode", method="html").strip()

    def do(self, instruction: Instruction) -> str:
        """Carries an instruction out; what came of it, in a sentence."""
        match instruction.verb:
            case "type":
                return self._type(instruction.argument)
            case "press":
                return self._press(instruction.argument)
        found = self._find(instruction.argument)
        if isinstance(found, str):
            return found
        control, choice = found
        match instruction.verb:
            case "movemouse":
                return f"The mouse is over {control.label!r}. Nothing changes."
            case "clickoption" if choice is not None:
                self._focus, self.values[control.id] = control, choice
                return f"{choice!r} is chosen in {control.label!r}."
            case "clickoption":
                return f"{control.label!r} is no option of a list. Use clickxpath for it."
            case _ if choice is not None:
                return f"{choice!r} is an option of a list. Use clickoption for it."
        return self._click(control)

    def _click(self, control: Control) -> str:
        self._focus = control
        match control.kind:
            case "button":
                self.sent = control.id
                return f"The button {control.label!r} was clicked."
            case "link":
                self._page, self._focus = control.to, None
                return f"The link {control.label!r} was followed."
            case "checkbox":
                self.values[control.id] = not self.values[control.id]
                return f"{control.label!r} is {'ticked' if self.values[control.id] else 'not ticked any more'}."
            case "options":
                return f"The list {control.label!r} is focused. Use clickoption for one of its options."
        return f"The field {control.label!r} is focused."

    def _type(self, text: str) -> str:
        field = self._focus
        if field is None or field.kind not in ("text", "password"):
            return "No field is focused, so nothing was typed. Click a field first."
        self.values[field.id] = f"{self.values[field.id]}{text}"
        return f"The field {field.label!r} holds {self.values[field.id]!r}."

    def _press(self, key: str) -> str:
        control, nothing = self._focus, f"Nothing happens on {key} here."
        controls = self._pages[self._page]
        if key == "tab":
            place = controls.index(control) + 1 if control in controls else 0
            self._focus = controls[place % len(controls)]
            return f"{self._focus.label!r} is focused."
        if control is None:
            return nothing
        match key, control.kind:
            case "enter", "text" | "password":
                button = next((each for each in controls if each.kind == "button"), None)
                return nothing if button is None else self._click(button)
            case ("enter", "button" | "link") | ("space", "button" | "checkbox"):
                return self._click(control)
            case "backspace", "text" | "password":
                self.values[control.id] = str(self.values[control.id])[:-1]
                return f"The field {control.label!r} holds {self.values[control.id]!r}."
            case "arrowup" | "arrowdown", "options":
                place = control.choices.index(str(self.values[control.id])) + (1 if key == "arrowdown" else -1)
                choice = control.choices[min(max(place, 0), len(control.choices) - 1)]
                self.values[control.id] = choice
                return f"{choice!r} is chosen in {control.label!r}."
        return nothing

    def _find(self, path: str) -> tuple[Control, str | None] | str:
        """The control an xpath leads to, with its choice where it leads to an option; else what is wrong."""
        below = path.removeprefix("/html")  # ElementTree searches below the root
        if not path.startswith(("//", "/html/")):
            return f"Nothing on the page matches {path}."
        try:
            found = self._tree().find(f".{below.replace('text()', '.')}")
        except (SyntaxError, LookupError, TypeError, ValueError):  # what it raises on paths that it cannot read
            return f"{path} is not understood. Write //TAG[@id='ID'] or //TAG[text()='TEXT']."
        if found is None:
            return f"Nothing on the page matches {path}."
        name = found.get("for") or found.get("id")
        for control in self._pages[self._page]:
            if name == control.id:
                return control, None
            for place, choice in enumerate(control.choices):
                if name == f"{control.id}-{place}":
                    return control, choice
        return f"Nothing can be done with what matches {path}."

    def _tree(self) -> ET.Element:
        """The current page: html, body, and what is on it."""
        root = ET.Element("html")
        body = ET.SubElement(root, "body")
        for control in self._pages[self._page]:
            match control.kind:
                case "button" | "link":
                    tag = "a" if control.kind == "link" else "button"
                    ET.SubElement(body, tag, id=control.id).text = control.label
                    continue
                case "options":
                    _label(body, control)
                    select = ET.SubElement(body, "select", id=control.id)
                    for place, choice in enumerate(control.choices):
                        chosen = {"selected": "selected"} if choice == self.values[control.id] else {}
                        ET.SubElement(select, "option", {"id": f"{control.id}-{place}", **chosen}).text = choice
                case "checkbox":
                    ticked = {"checked": "checked"} if self.values[control.id] else {}
                    ET.SubElement(body, "input", {"id": control.id, "type": "checkbox", **ticked})
                    _label(body, control)
                case _:
                    _label(body, control)
                    value = str(self.values[control.id])
                    ET.SubElement(body, "input", {"id": control.id, "type": control.kind, "value": value})
        return root


def _label(body: ET.Element, control: Control) -> None:
    ET.SubElement(body, "label", {"for": control.id}).text = control.label
