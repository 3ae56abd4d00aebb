"""The embedded engine on a real, tiny, random Llama; the tests marked `model` use the real weights where they are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from tiny_llama import write_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from evolvent.agents.errors import ModelUnavailableError
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.protocol import Scorer, Scores
from evolvent.memory.cache import cached

OPTIONS = ["Use the oil.", "Use the oil can.", "Use the file", "Wait", "W"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("tiny"))


def grown(turns: int, task: str = "Mend the rusty kettle.") -> list[BaseMessage]:
    """A prompt of an episode after some turns."""
    messages: list[BaseMessage] = [SystemMessage("You work in a shop, with care."), HumanMessage(task)]
    for turn in range(turns):
        messages += [AIMessage(OPTIONS[turn % 3]), HumanMessage(f"Step {turn} is done." + " Go on." * turn)]
    return messages


def plain(path: str, messages: Sequence[BaseMessage], options: Sequence[str]) -> list[list[float]]:
    """The same log-probabilities by transformers alone: one full forward for each option."""
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(openai(messages), add_generation_prompt=True)["input_ids"]
    scores = []
    for option in options:
        ids = tokenizer(option, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logprobs = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        scores.append([float(logprobs[i, token]) for i, token in enumerate(ids)])
    return scores


def openai(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    return [{"role": roles[message.type], "content": message.text} for message in messages]


def close(scores: Scores, expected: Sequence[Sequence[float]], within: float) -> None:
    assert [len(option) for option in scores.logprobs] == [len(option) for option in expected]
    for ours, theirs in zip(scores.logprobs, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=within)


async def test_log_probabilities_are_those_of_full_forwards_at_every_step(weights: str) -> None:
    model = LocalChatModel(path=weights)
    assert isinstance(model, Scorer)
    for turns in range(4):
        scores = await model.logprobs(grown(turns), OPTIONS)
        close(scores, plain(weights, grown(turns), OPTIONS), 1e-4)


async def test_a_step_computes_only_what_is_new(weights: str) -> None:
    model = LocalChatModel(path=weights)
    await model.logprobs(grown(1), ["Wait"])
    before = model.forward_tokens
    scores = await model.logprobs(grown(2), ["Wait", "Want"])
    new = AutoTokenizer.from_pretrained(weights).apply_chat_template(openai(grown(2)[4:]))["input_ids"]
    header = len("assistant\n") + 1
    assert model.forward_tokens - before == len(new) + header + len("Wa") + len("i") + len("n")
    assert scores.tokens_in > model.forward_tokens - before


async def test_the_head_of_concurrent_episodes_is_computed_once(weights: str) -> None:
    tasks = [f"Mend thing {i}." for i in range(8)]
    together = LocalChatModel(path=weights)
    await asyncio.gather(*(together.logprobs(grown(0, task), ["A"]) for task in tasks))
    alone = LocalChatModel(path=weights)
    for task in tasks:
        await alone.logprobs(grown(0, task), ["A"])
    assert together.forward_tokens == alone.forward_tokens


async def test_batching_changes_no_answer(weights: str) -> None:
    model = LocalChatModel(path=weights)
    prompts = [grown(turns, task) for turns in range(4) for task in ("Mend it.", "Mend the very old and rusty wheel.")]
    answers = await asyncio.gather(
        *(model.logprobs(prompt, OPTIONS[: 1 + i % 5]) for i, prompt in enumerate(prompts)),
        *(model.ainvoke(prompt, max_tokens=4 + i) for i, prompt in enumerate(prompts)),
    )
    for i, prompt in enumerate(prompts):
        scores, reply = answers[i], answers[len(prompts) + i]
        assert isinstance(scores, Scores)
        assert isinstance(reply, AIMessage)
        alone = LocalChatModel(path=weights)
        close(scores, (await alone.logprobs(prompt, OPTIONS[: 1 + i % 5])).logprobs, 1e-4)
        assert reply.text == (await alone.ainvoke(prompt, max_tokens=4 + i)).text


async def test_one_at_a_time_a_fresh_model_repeats_a_warm_one_bit_for_bit(weights: str) -> None:
    warm = LocalChatModel(path=weights)
    for turns in range(3):
        await warm.logprobs(grown(turns), OPTIONS)
    fresh = LocalChatModel(path=weights)
    assert await fresh.logprobs(grown(3), OPTIONS[:3]) == await warm.logprobs(grown(3), OPTIONS[:3])


@pytest.mark.parametrize("cache_bytes", [0, 20_000])
async def test_a_cache_that_is_too_small_costs_time_and_nothing_else(weights: str, cache_bytes: int) -> None:
    small, large = LocalChatModel(path=weights, cache_bytes=cache_bytes), LocalChatModel(path=weights)
    for turns in (0, 1, 2, 1):
        assert await small.logprobs(grown(turns), OPTIONS) == await large.logprobs(grown(turns), OPTIONS)
    assert small.forward_tokens > large.forward_tokens


async def test_a_greedy_reply_is_the_one_transformers_writes(weights: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(weights)
    reference: Any = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(openai(grown(1)), add_generation_prompt=True)["input_ids"]
    ids = torch.tensor([prompt])
    written = reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=1
    )[0, len(prompt) :]
    reply = await LocalChatModel(path=weights).ainvoke(grown(1), max_tokens=40)
    assert reply.text == tokenizer.decode(written, skip_special_tokens=True)
    assert reply.usage_metadata == {
        "input_tokens": len(prompt),
        "output_tokens": len(written),
        "total_tokens": len(prompt) + len(written),
    }


async def test_a_reply_ends_before_a_stop_text(weights: str) -> None:
    model = LocalChatModel(path=weights)
    whole = await model.ainvoke(grown(1), max_tokens=30)
    assert whole.response_metadata["finish_reason"] == "length"
    stop = whole.text[5:8]
    cut = await model.ainvoke(grown(1), max_tokens=30, stop=[stop])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.response_metadata["finish_reason"] == "stop"
    assert cut.usage_metadata is not None
    assert whole.usage_metadata is not None
    assert cut.usage_metadata["output_tokens"] < whole.usage_metadata["output_tokens"]


async def test_sampling_follows_the_seed(weights: str) -> None:
    model = LocalChatModel(path=weights)

    async def sample(seed: int) -> str:
        return (await model.ainvoke(grown(0), temperature=2.0, max_tokens=12, seed=seed)).text

    first, other, again = await asyncio.gather(sample(1), sample(2), sample(1))
    assert first == again != other


async def test_a_prompt_longer_than_the_window_names_both_numbers(weights: str) -> None:
    model = LocalChatModel(path=weights)
    long = [HumanMessage("x" * 2_000)]
    with pytest.raises(ValueError, match=r"The prompt has 2\d\d\d tokens .* window is 2000"):
        await model.logprobs(long, ["A"])
    with pytest.raises(ValueError, match="window is 2000"):
        await model.ainvoke(long)


async def test_a_reply_ends_at_the_window(weights: str) -> None:
    reply = await LocalChatModel(path=weights).ainvoke([HumanMessage("x" * 1_960)], max_tokens=500)
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["total_tokens"] <= 2_000


async def test_a_bad_request_fails_alone(weights: str) -> None:
    model = LocalChatModel(path=weights)
    good, empty, none = await asyncio.gather(
        model.logprobs(grown(0), ["A"]),
        model.logprobs(grown(0), ["A", ""]),
        model.logprobs(grown(0), []),
        return_exceptions=True,
    )
    assert isinstance(good, Scores)
    assert isinstance(empty, ValueError)
    assert isinstance(none, ValueError)


async def test_calls_come_from_several_threads_and_loops(weights: str) -> None:
    model = LocalChatModel(path=weights)
    expected = await model.logprobs(grown(0), OPTIONS)
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(asyncio.run(model.logprobs(grown(0), OPTIONS)))),
        threading.Thread(target=lambda: answers.append(model.invoke(grown(0), max_tokens=3).text)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    scores, text = sorted(answers, key=lambda answer: isinstance(answer, str))
    assert isinstance(scores, Scores)
    close(scores, expected.logprobs, 1e-5)
    # A plain call inside a running loop, as in a notebook.
    assert text == model.invoke(grown(0), max_tokens=3).text


async def test_weights_that_are_not_there_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"no config\.json") as caught:
        await LocalChatModel(path=str(tmp_path)).logprobs(grown(0), ["A"])
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def smollm2() -> str:
    path = cached("smollm2")
    if path is None:
        pytest.skip("the embedded model is not in the cache: evolvent models pull smollm2")
    return str(path)


@pytest.mark.model
async def test_the_embedded_model_scores_as_full_forwards_and_knows_a_capital(smollm2: str) -> None:
    model = LocalChatModel(path=smollm2)
    await model.logprobs(grown(1), OPTIONS)
    close(await model.logprobs(grown(2), OPTIONS), plain(smollm2, grown(2), OPTIONS), 1e-4)
    reply = await model.ainvoke([HumanMessage("Name the capital of France.")], max_tokens=20)
    assert "Paris" in reply.text


@pytest.mark.model
async def test_the_embedded_model_repeats_bit_for_bit_whatever_was_cached(smollm2: str) -> None:
    warm, fresh = LocalChatModel(path=smollm2), LocalChatModel(path=smollm2)
    await warm.logprobs(grown(1), OPTIONS)
    await warm.logprobs(grown(2), OPTIONS[:2])
    assert await warm.logprobs(grown(2), OPTIONS) == await fresh.logprobs(grown(2), OPTIONS)
