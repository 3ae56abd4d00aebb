"""A vLLM server on SmolLM2 in float32, started here, that takes adapters while it runs; and its real faults."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from contract import MESSAGES, OPTIONS, Foreign, assert_same_results, difference
from langchain_core.messages import HumanMessage
from tiny_llama import write_adapter

from evolvent.agents.errors import AdapterMismatchError, BadAdapterError, ModelUnavailableError
from evolvent.agents.models import catalog
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.protocol import Scorer
from evolvent.agents.models.verify import verify
from evolvent.agents.models.vllm import VllmChatModel, adapter_name
from evolvent.memory.weights.canaries import Canary

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]  # starting it takes a minute on an idle machine

STARTING_S = 600
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""All but the head: on a CPU, with the head among them, vLLM dies of two prompts that are scored at once."""
PROMISED = "skill@0123456789ab"
"""A name under which the server, set up wrongly, serves its base."""


@pytest.fixture(scope="module")
def url(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    # As `vllm serve`: that command asks for its version by a name that the package for CPUs does not have.
    serve = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={smollm2}", f"--port={port}"]
    served = ["--served-model-name", "smollm2", PROMISED, "--dtype=float32", f"--kv-cache-memory-bytes={2**29}"]
    lora = ["--enable-lora", "--max-lora-rank=16", "--max-loras=2", "--lora-target-modules", *LAYERS]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*serve, "--host=127.0.0.1", *served, *lora],
            env={**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its engine's processes can be ended with it
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=30)
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    for _ in range(STARTING_S):
        if server.poll() is not None:
            break
        try:
            if httpx.get(health).is_success:
                return
        except httpx.TransportError:
            time.sleep(1)
    pytest.fail(f"The server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture
def model(url: str) -> VllmChatModel:
    model = catalog.resolve(f"vllm:smollm2@{url}")
    assert isinstance(model, VllmChatModel)
    return model


async def test_it_gives_the_same_results_as_the_embedded_engine(model: VllmChatModel, embedded: LocalChatModel) -> None:
    assert isinstance(model, Scorer)
    await assert_same_results(model, embedded)


async def test_with_an_adapter_that_was_loaded_while_it_runs_too(
    model: VllmChatModel, embedded: LocalChatModel, adapters: dict[str, str]
) -> None:
    skilled = model.with_adapter(adapters["skill"])
    await assert_same_results(skilled, embedded.with_adapter(adapters["skill"]))
    again = model.with_adapter(adapters["skill"])  # it is loaded already, by this client or another
    base, first, second = [await each.logprobs(MESSAGES[0], OPTIONS) for each in (model, skilled, again)]
    assert difference(first, second) < 1e-3
    assert difference(base, first) > 1


async def test_the_served_adapter_is_verified(
    model: VllmChatModel, adapters: dict[str, str], canaries: tuple[Canary, ...]
) -> None:
    assert (await verify(model.with_adapter(adapters["skill"]), canaries, base=model)).ok


async def test_a_base_that_is_served_by_the_adapters_name_is_found_out(
    model: VllmChatModel, url: str, canaries: tuple[Canary, ...]
) -> None:
    promised = VllmChatModel(model=PROMISED, base_url=url)
    with pytest.raises(AdapterMismatchError, match="The base is served without it"):
        await verify(promised, canaries, base=model)


async def test_an_older_adapter_under_the_same_name_is_found_out(
    model: VllmChatModel, url: str, adapters: dict[str, str], canaries: tuple[Canary, ...]
) -> None:
    name = "law@00000000beef"
    stale = {"lora_name": name, "lora_path": adapters["other"]}
    assert httpx.post(f"{url}/load_lora_adapter", json=stale, timeout=60).is_success
    served = model.with_adapter(adapters["skill"], name=name)
    with pytest.raises(AdapterMismatchError, match="'other' is served instead"):
        await verify(served, canaries, base=model)
    served.remove_adapter()


async def test_an_adapter_of_another_base_which_vllm_takes_without_a_word_is_found_out(
    model: VllmChatModel, foreign: Foreign
) -> None:
    served = model.with_adapter(foreign.adapter)
    with pytest.raises(AdapterMismatchError, match="another base is served"):
        await verify(served, foreign.canaries)
    served.remove_adapter()


async def test_a_removed_adapter_is_not_served_any_more(model: VllmChatModel, adapters: dict[str, str]) -> None:
    view = model.with_adapter(adapters["other"])
    view.remove_adapter()
    view.remove_adapter()  # somebody else may have been faster
    with pytest.raises(httpx.HTTPStatusError, match="HTTP 404"):
        await view.ainvoke([HumanMessage("Hello")])


def test_what_cannot_be_served_is_told_with_the_next_move(
    model: VllmChatModel, smollm2: str, cut_off: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadAdapterError, match=r"cut-off.*Copy it again"):
        model.with_adapter(cut_off)
    with pytest.raises(BadAdapterError, match="Start vLLM with a max_lora_rank that is as high"):
        model.with_adapter(write_adapter(smollm2, tmp_path / "rank-32", r=32, target_modules=["q_proj"]))
    with pytest.raises(BadAdapterError, match="by the same path"):
        model.with_adapter(tmp_path / "only-here@0123456789ab")
    with pytest.raises(BadAdapterError, match="conflicts with a served base model"):
        model.with_adapter(tmp_path / PROMISED)
    assert model.invoke([HumanMessage("Hello")], max_tokens=2).text


def test_a_server_that_is_not_there_is_told(adapters: dict[str, str]) -> None:
    with pytest.raises(ModelUnavailableError, match="No vLLM server answers at http"):
        VllmChatModel(model="smollm2", base_url="http://127.0.0.1:9/v1").with_adapter(adapters["skill"])


def test_an_adapter_goes_by_its_registered_name_or_by_a_hash_of_its_files(adapters: dict[str, str]) -> None:
    assert adapter_name("runs/one/adapters/law@0123456789ab") == "law@0123456789ab"
    names = {adapter_name(folder) for folder in adapters.values()}
    assert len(names) == 2
    assert {name.split("@")[0] for name in names} == {"skill", "other"}
