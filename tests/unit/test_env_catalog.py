from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

from evolvent.environments import catalog
from evolvent.environments.errors import BadOptionError, MissingPackageError, UnknownEnvironmentError
from evolvent.environments.protocol import EnvironmentSpec


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownEnvironmentError, match=r"named 'blackjak'. Known: .*Did you mean 'blackjack'\?"):
        catalog.build(EnvironmentSpec("blackjak"))


def test_an_unknown_option_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        BadOptionError, match=r"textworld has no option 'levels'. Known: game, level. Did you mean 'level'\?"
    ):
        catalog.build(EnvironmentSpec("textworld", {"levels": 3}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("blackjack", {"situation": "vague"}),
        ("textworld", {"game": "chess"}),
        ("textworld", {"game": "cooking", "level": 6}),
        ("textworld", {"level": 0}),
        ("textcraft", {"longest": 3}),
        ("textcraft", {"longest": "long"}),
        ("word_problems", {"steps": 5}),
        ("labelled", {"task": "intents-7"}),
        ("extraction", {"kind": "recipes"}),
        ("translation", {"threshold": 2}),
        ("qa", {"hops": 3}),
        ("dialogue", {"day": 3}),
        ("key_values", {"depth": 5}),
        ("fanoutqa", {"evidence": "articles"}),
        ("creatures", {"classes": 5}),
        ("creatures", {"traits": "all"}),
        ("reasoning_gym", {"level": -1}),
        ("planning", {"domain": "chess"}),
        ("code", {"source": "mbpp"}),
        ("code", {"boundary": "docker"}),
        ("code", {"test_s": 0}),
        ("web", {"task": "shop"}),
        ("toolbox", {"family": "chess"}),
        ("shop", {"day": 3}),
        ("shop", {"users": 13}),
        ("shop", {"turns": "many"}),
    ],
)
def test_a_value_out_of_range_is_refused_before_any_work(name: str, options: dict[str, object]) -> None:
    with pytest.raises(BadOptionError, match=f"{name}: .*not "):
        catalog.build(EnvironmentSpec(name, options))


def test_a_missing_package_is_answered_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'needs the package .rlcard.*pip install "evolvent\[games\]"'):
        catalog.build(EnvironmentSpec("blackjack"))
    listed = {listing.name: listing for listing in catalog.entries()}
    assert not listed["textcraft"].installed
    assert listed["textcraft"].install == 'pip install "evolvent[games]"'
    assert listed["textcraft"].version == ""
    assert listed["tools"].install == 'pip install "evolvent[tools]"  # in a call of its own, after the other extras'


def test_a_class_of_ones_own_is_built_by_its_path() -> None:
    world = catalog.build(EnvironmentSpec("evolvent.environments.blackjack:Blackjack", {"situation": "banded"}))
    assert world.players == ("agent",)
    with pytest.raises(UnknownEnvironmentError, match="no attribute 'Whitejack'"):
        catalog.build(EnvironmentSpec("evolvent.environments.blackjack:Whitejack"))
    with pytest.raises(UnknownEnvironmentError, match="No module named 'nowhere'"):
        catalog.build(EnvironmentSpec("nowhere:World"))


def test_every_entry_is_listed_with_a_version_that_names_its_package() -> None:
    listed = {listing.name: listing for listing in catalog.entries()}
    assert list(listed) == [
        *("workshop", "blackjack", "cards", "games"),
        *("textworld", "household", "textcraft", "word_problems", "labelled"),
        *("extraction", "translation", "qa", "fanoutqa", "moderation", "creatures"),
        *("dialogue", "key_values", "continuation"),
        *("reasoning_gym", "code", "planning", "web", "society", "shop", "miniwob", "tools", "toolbox", "story"),
        *("kitchen", "judging"),
    ]
    assert listed["blackjack"].version == f"{importlib.metadata.version('rlcard')}+1"
    assert listed["reasoning_gym"].version == f"{importlib.metadata.version('reasoning-gym')}+1"
    assert listed["workshop"].version.startswith(importlib.metadata.version("evolvent"))
    assert listed["workshop"].install == ""


def test_listing_imports_no_game() -> None:
    games = "rlcard textarena textworld textcraft reasoning_gym gymnasium torch"
    script = (
        "import sys; from evolvent.environments import catalog; catalog.entries();"
        f"print([name for name in {games.split()} if name in sys.modules])"
    )
    listed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "[]"
