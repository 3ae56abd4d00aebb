"""What the tests against the real vLLM share: weights, adapters, and the embedded model that it is held to.

`make test-vllm` runs them in an environment of their own; where vLLM is not installed nothing here is collected.
The folder is not called `vllm`, for then Python would take it for the package.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from contract import PROMPTS, Foreign
from tiny_llama import write_adapter, write_base

from evolvent.agents.models import catalog
from evolvent.agents.models.local import LocalChatModel
from evolvent.memory.weights.canaries import Canary, measure

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# On a CPU vLLM would keep one core for itself, tie its threads to the others and put them in one process more. On two
# cores that are busy otherwise too, that is several times slower.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


@pytest.fixture(scope="session")
def smollm2() -> str:
    return str(catalog.pull("smollm2"))


@pytest.fixture(scope="session")
def adapters(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders by name: two random adapters, each more than a nat per token from the base."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(smollm2, folder / name, seed=seed, lora_alpha=4)
        for name, seed in (("skill", 1), ("other", 2))
    }


@pytest.fixture(scope="session")
def embedded(smollm2: str) -> LocalChatModel:
    return LocalChatModel(path=smollm2)


@pytest.fixture(scope="session")
def canaries(smollm2: str, adapters: dict[str, str]) -> tuple[Canary, ...]:
    """Of `skill`, which must be taken neither for its base nor for `other`."""
    return measure(smollm2, adapters["skill"], PROMPTS, rivals={"other": adapters["other"]}, max_tokens=12)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    folder = tmp_path_factory.mktemp("foreign")
    base = write_base(folder / "base")
    adapter = write_adapter(base, folder / "foreign")
    return Foreign(adapter, measure(base, adapter, PROMPTS, max_tokens=12))


@pytest.fixture
def cut_off(adapters: dict[str, str], tmp_path: Path) -> Path:
    """`skill`, copied only halfway."""
    folder = tmp_path / "cut-off"
    folder.mkdir()
    for file in Path(adapters["skill"]).iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    return folder
