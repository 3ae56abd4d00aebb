"""What an install would hold, read from `pyproject.toml`; `tests/integration/test_wheel.py` builds the real thing."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("environments", "memory", "agents")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_every_folder_with_python_files_is_a_package_of_the_wheel(pyproject: dict[str, Any]) -> None:
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    listed = pyproject["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted("evolvent." + ".".join(folder.parts) for folder in folders)


def test_every_file_beside_the_modules_is_package_data(pyproject: dict[str, Any]) -> None:
    patterns = pyproject["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for package, globs in patterns.items()
        for glob in globs
        for path in (ROOT / package.removeprefix("evolvent.").replace(".", "/")).glob(glob)
    }
    beside = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert beside - shipped == set()
    assert len([path for path in shipped if path.suffix == ".yaml"]) == 90


def test_the_constraints_pin_what_is_declared_and_inside_its_range(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    declared = requirements([*project["dependencies"], *extras])
    pins = requirements((ROOT / "constraints.txt").read_text().splitlines())
    for pin in pins:
        (exact,) = pin.specifier
        ranges = [one.specifier for one in declared if canonicalize_name(one.name) == canonicalize_name(pin.name)]
        assert exact.operator == "==", pin
        assert ranges, f"{pin.name} is pinned but no dependency"
        assert all(exact.version in specifier for specifier in ranges), pin
    core = {canonicalize_name(one.name) for one in requirements(project["dependencies"])}
    assert core <= {canonicalize_name(pin.name) for pin in pins}


def test_the_licence_is_the_unchanged_apache_text(pyproject: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest().startswith("cfc7749b96f63bd31c3c42b5c471bf75")
    assert pyproject["project"]["license"] == "Apache-2.0"


def test_the_links_for_type_checkers_lead_to_the_three_packages() -> None:
    links = ROOT / ".links" / "evolvent"
    assert {link.name: link.resolve() for link in links.iterdir()} == {name: ROOT / name for name in PACKAGES}
    assert all(not link.readlink().is_absolute() for link in links.iterdir())
