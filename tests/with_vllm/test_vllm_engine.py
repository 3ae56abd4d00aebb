"""vLLM's engine beside this process, on SmolLM2 in float32, held to the embedded engine."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import MESSAGES, OPTIONS, Foreign, assert_same_results, difference, written
from langchain_core.messages import HumanMessage
from tiny_llama import write_adapter, write_base

from evolvent.agents.errors import AdapterMismatchError, BadAdapterError, ModelUnavailableError
from evolvent.agents.models import catalog
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.protocol import Scorer
from evolvent.agents.models.verify import compare, verify
from evolvent.agents.models.vllm_engine import VllmEngineModel
from evolvent.memory.weights.canaries import Canary

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),  # starting it takes a minute on an idle machine
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),  # vLLM's own
]


@pytest.fixture(scope="module")
def model(smollm2: str) -> Iterator[VllmEngineModel]:
    model = VllmEngineModel(path=smollm2, arguments={"kv_cache_memory_bytes": 2**29, "max_lora_rank": 16})
    model.load()
    yield model
    model.close()


@pytest.fixture(scope="module")
def skilled(model: VllmEngineModel, adapters: dict[str, str]) -> VllmEngineModel:
    return model.with_adapter(adapters["skill"])


async def test_it_gives_the_same_results_as_the_embedded_engine(
    model: VllmEngineModel, embedded: LocalChatModel
) -> None:
    assert isinstance(model, Scorer)
    await assert_same_results(model, embedded)


async def test_with_an_adapter_too(
    model: VllmEngineModel, skilled: VllmEngineModel, embedded: LocalChatModel, adapters: dict[str, str]
) -> None:
    await assert_same_results(skilled, embedded.with_adapter(adapters["skill"]))
    base, changed = [await each.logprobs(MESSAGES[0], OPTIONS) for each in (model, skilled)]
    assert difference(base, changed) > 1


async def test_adapters_in_one_batch_keep_apart(
    model: VllmEngineModel, skilled: VllmEngineModel, adapters: dict[str, str]
) -> None:
    models = [model, skilled, model.with_adapter(adapters["other"])]
    alone = [await each.logprobs(MESSAGES[0], OPTIONS) for each in models]
    together = await asyncio.gather(*(each.logprobs(MESSAGES[0], OPTIONS) for each in models))
    assert max(map(difference, alone, together)) < 1e-3
    assert difference(alone[1], alone[2]) > 1


async def test_the_served_adapter_is_verified_and_what_is_served_instead_is_named(
    model: VllmEngineModel, skilled: VllmEngineModel, adapters: dict[str, str], canaries: tuple[Canary, ...]
) -> None:
    assert (await verify(skilled, canaries, base=model)).ok
    with pytest.raises(AdapterMismatchError, match="The base is served without it"):
        await verify(model, canaries, base=model)
    assert "'other' is served instead" in (await compare(model.with_adapter(adapters["other"]), canaries)).diagnosis


async def test_an_adapter_of_another_base_which_vllm_takes_without_a_word_is_found_out(
    model: VllmEngineModel, foreign: Foreign
) -> None:
    with pytest.raises(AdapterMismatchError, match="another base is served"):
        await verify(model.with_adapter(foreign.adapter), foreign.canaries)


async def test_an_adapter_that_was_trained_anew_in_the_same_folder_is_read_anew(
    model: VllmEngineModel, smollm2: str, tmp_path: Path
) -> None:
    folder = tmp_path / "latest"
    write_adapter(smollm2, folder, seed=3, lora_alpha=4)
    first = model.with_adapter(folder)
    before = await written(first, MESSAGES[1])
    write_adapter(smollm2, folder, seed=4, lora_alpha=4)
    second = model.with_adapter(folder)
    assert await written(second, MESSAGES[1]) != before
    assert await written(first, MESSAGES[1]) == before


async def test_a_removed_adapter_is_not_served_any_more(model: VllmEngineModel, adapters: dict[str, str]) -> None:
    view = model.with_adapter(adapters["other"])
    view.remove_adapter()
    with pytest.raises(BadAdapterError, match="was removed"):
        await view.ainvoke([HumanMessage("Hello")])
    assert await written(model, MESSAGES[0])


def test_what_cannot_be_served_is_told_with_the_next_move(
    model: VllmEngineModel, smollm2: str, cut_off: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadAdapterError, match=r"cut-off.*Copy it again"):
        model.with_adapter(cut_off)
    with pytest.raises(BadAdapterError, match="Start vLLM with a max_lora_rank that is as high"):
        model.with_adapter(write_adapter(smollm2, tmp_path / "rank-32", r=32, target_modules=["q_proj"]))
    with pytest.raises(BadAdapterError, match="Merge it into the base"):
        model.with_adapter(write_adapter(smollm2, tmp_path / "dora", use_dora=True, target_modules=["q_proj"]))
    with pytest.raises(BadAdapterError, match=r"no adapter_config\.json"):
        model.with_adapter(tmp_path / "nowhere")
    assert model.invoke([HumanMessage("Hello")], max_tokens=2).text


async def test_stop_limit_and_seed_mean_what_they_mean_to_the_embedded_model(
    model: VllmEngineModel, embedded: LocalChatModel
) -> None:
    messages = MESSAGES[2]
    whole = await embedded.ainvoke(messages, max_tokens=12)
    for settings in ({"stop": [whole.text[8:11]]}, {}, {"max_tokens": 3}):
        ours, theirs = [await each.ainvoke(messages, **{"max_tokens": 12, **settings}) for each in (embedded, model)]
        assert isinstance(ours.text, str)
        assert theirs.text == ours.text
        assert theirs.response_metadata == ours.response_metadata
        assert theirs.usage_metadata == ours.usage_metadata
    drawn = [(await model.ainvoke(messages, temperature=1.5, seed=seed, max_tokens=8)).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


async def test_a_prompt_over_the_window_and_a_missing_continuation_are_refused(model: VllmEngineModel) -> None:
    with pytest.raises(ValueError, match="the model's window is 8192"):
        await model.ainvoke([HumanMessage("word " * 8192)])
    with pytest.raises(ValueError, match="one or more, none of them empty"):
        await model.logprobs(MESSAGES[0], ["yes", ""])


def test_threads_and_event_loops_of_their_own_may_call(model: VllmEngineModel) -> None:
    expected = model.invoke(MESSAGES[0], max_tokens=4).text
    heard: list[str] = []

    def call() -> None:
        heard.append(model.invoke(MESSAGES[0], max_tokens=4).text)
        heard.append(asyncio.run(model.ainvoke(MESSAGES[0], max_tokens=4)).text)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [expected] * 6


def test_weights_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    model = catalog.resolve(f"vllm:{tmp_path}")
    assert isinstance(model, VllmEngineModel)
    with pytest.raises(ModelUnavailableError, match="Give a folder of Hugging Face weights"):
        model.load()


def test_a_closed_model_leaves_no_process_and_says_so(tmp_path: Path) -> None:
    base = write_base(tmp_path / "tiny", head_dim=32, num_hidden_layers=1)
    model = VllmEngineModel(path=base, arguments={"kv_cache_memory_bytes": 2**27, "enable_lora": False})
    before = children()
    assert model.invoke([HumanMessage("Hello")], max_tokens=2).text
    assert children() - before
    model.close()
    assert not children() - before, "An engine outlives its model"
    with pytest.raises(ModelUnavailableError, match="was closed"):
        model.invoke([HumanMessage("Hello")])


def children() -> set[int]:
    """Processes that live below this one. Python's tracker of shared memory, which stays, is none of an engine."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue  # it ended meanwhile
        if "resource_tracker" not in command and "Z" not in fields["State"]:
            parents[int(fields["Pid"])] = int(fields["PPid"])
    below = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return below - {os.getpid()}
