"""The wheel that a user would install, built from a copy of the sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("environments", "memory", "agents")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built file. Built beside the checkout, because setuptools ships what an earlier build left in `build/`."""
    copy = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(copy)]
    subprocess.run(command, cwd=copy.parent, check=True, capture_output=True, timeout=120)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    sources = {
        f"evolvent/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    held = zipfile.ZipFile(wheel).namelist()
    assert {name for name in held if ".dist-info/" not in name} == sources
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)


def test_the_catalogue_reads_its_cards_and_results_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from evolvent.agents.recipes import catalog\n"
        "print(catalog.__file__, len(catalog.systems()), any(one.status == 'stale' for one in catalog.systems()))"
    )
    # -S leaves out the editable install's finder; the dependencies' folder comes back by hand.
    code = f"import sys; sys.path += {[path for path in sys.path if 'site-packages' in path]!r}\n" + code
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [str(tmp_path / "evolvent/agents/recipes/catalog.py"), "90", "False"]
