"""How fast the embedded model chooses, against scoring every option with the full prompt at every step.

    PYTHONPATH=tests python tests/benchmarks/bench_local_inference.py

Episodes have a 150-token prompt that grows by 25 tokens a step, with four options of 3 to 6 tokens at each of 8 steps.
The plain way is one episode at a time, four full sequences a step, in the layout the weights are stored in. Both ways
are timed in turn, so that other work on the machine slows both; what counts is the ratio.

And how fast an adapter writes, against its base: through hooks, which rows of several adapters need, and folded, as an
adapter is served that is alone for long. Here it is processor time that counts.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from tiny_llama import write_adapter
from transformers import AutoModelForCausalLM

from evolvent.agents.models import lora
from evolvent.agents.models.engine import Draft, Engine
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.tokens import ChatTokenizer
from evolvent.memory.cache import cached
from evolvent.memory.compute import compute

STEPS = 8
WORDS = (
    "iron",
    "rust",
    "kettle",
    "lamp",
    "rope",
    "wheel",
    "door",
    "clay",
    "glass",
    "tin",
    "oil",
    "cloth",
    "wax",
    "sand",
)
TOOLS = ["the hammer", "the wet sponge", "the old oil can", "a very small iron file"]


@dataclass(frozen=True)
class Measured:
    one: float
    """Decisions a second of one episode alone, as a multiple of the plain way's."""
    sixteen: float
    """The same, 16 episodes at once."""
    difference: float
    """Largest difference between two log-probabilities of a token."""


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of processor time, as a multiple of the base's; and what the change of ways takes."""

    hooks: float
    folded: float
    fold_s: float
    """Once for an adapter that is alone for long."""
    swap_s: float
    """Weights in and out again, at every forward."""


def episode(seed: int, head: str) -> list[list[BaseMessage]]:
    """The prompts of an episode's steps."""
    rng = random.Random(seed)
    messages: list[BaseMessage] = [SystemMessage(head), HumanMessage(" ".join(rng.choices(WORDS, k=50)))]
    prompts = []
    for _ in range(STEPS):
        prompts.append(list(messages))
        messages += [AIMessage(rng.choice(TOOLS)), HumanMessage(" ".join(rng.choices(WORDS, k=12)))]
    return prompts


async def play(model: LocalChatModel, prompts: Sequence[Sequence[BaseMessage]]) -> list[list[tuple[float, ...]]]:
    return [list((await model.logprobs(prompt, TOOLS)).logprobs) for prompt in prompts]


def plain(model: torch.nn.Module, tokenizer: ChatTokenizer, messages: Sequence[BaseMessage]) -> list[tuple[float, ...]]:
    """Each option behind the whole prompt, one full forward each."""
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    prompt = tokenizer.prompt([(roles[message.type], message.text) for message in messages])
    ids = [*(token for chunk in prompt.chunks for token in chunk), *prompt.header]
    scores = []
    for option in map(tokenizer.encode, TOOLS):
        with torch.inference_mode():
            logits_TV = model(input_ids=torch.tensor([[*ids, *option]])).logits[0, len(ids) - 1 : -1]
        logprobs_TV = torch.log_softmax(logits_TV, -1)
        scores.append(tuple(logprobs_TV[torch.arange(len(option)), torch.tensor(option)].tolist()))
    return scores


def measure(path: str, *, rounds: int = 3, plain_steps: Sequence[int] = (0, 4, 7)) -> Measured:
    """Medians over rounds. The plain way is timed at some steps and taken as linear between them."""
    tokenizer = ChatTokenizer(path)
    # Neither way is to be slowed by workers that the other one left behind.
    reference = compute(AutoModelForCausalLM.from_pretrained, path, dtype=torch.float32).eval()
    head = "You work in a shop. Answer with one tool. " * 9
    seeds = iter(range(10_000))
    compute(plain, reference, tokenizer, episode(next(seeds), head)[0])
    plain_s, one_s, sixteen_s, differences = [], [], [], []
    for _ in range(rounds):
        model = LocalChatModel(path=path)
        asyncio.run(play(model, episode(next(seeds), "Warm up.")[:2]))
        prompts = episode(next(seeds), head)
        start = time.perf_counter()
        scores = asyncio.run(play(model, prompts))
        one_s.append((time.perf_counter() - start) / STEPS)

        costs = []
        for step in plain_steps:
            start = time.perf_counter()
            expected = compute(plain, reference, tokenizer, prompts[step])
            costs.append(time.perf_counter() - start)
            differences += [
                abs(a - b)
                for ours, theirs in zip(scores[step], expected, strict=True)
                for a, b in zip(ours, theirs, strict=True)
            ]
        plain_s.append(statistics.mean(costs))

        many = [episode(next(seeds), head) for _ in range(16)]

        async def all_of_them(model: LocalChatModel = model, many: list[list[list[BaseMessage]]] = many) -> None:
            await asyncio.gather(*(play(model, prompts) for prompts in many))

        start = time.perf_counter()
        asyncio.run(all_of_them())
        sixteen_s.append((time.perf_counter() - start) / (16 * STEPS))
    return Measured(
        statistics.median(p / o for p, o in zip(plain_s, one_s, strict=True)),
        statistics.median(p / s for p, s in zip(plain_s, sixteen_s, strict=True)),
        max(differences),
    )


def measure_adapter(path: str, *, rows: int = 16, tokens: int = 9, rounds: int = 3) -> Speeds:
    """Medians over rounds in which base, hooks and folded weights write the same number of tokens in turn, prompts
    computed before."""
    tokenizer, engine = ChatTokenizer(path), Engine(path)
    with TemporaryDirectory() as folder:
        written = write_adapter(path, Path(folder), r=16, lora_alpha=32)
        adapters = {"base": None, "hooks": engine.adapter(written), "folded": engine.adapter(written)}
    served = engine._adapters
    seconds: dict[str, list[float]] = {name: [] for name in adapters}

    def write(name: str, asked: Sequence[str], length: int) -> float:
        # Hooks for ever, or folded from the first forward on.
        served._alone = (0, 0)
        lora._PATIENCE = 0 if name == "folded" else 10**9
        prompts = [tokenizer.prompt([("user", text)]) for text in asked]
        start = time.process_time()
        engine.generate([Draft(prompt, length, lambda _: False, adapter=adapters[name]) for prompt in prompts])
        return time.process_time() - start

    patience = lora._PATIENCE
    try:
        for turn in range(rounds):
            asked = [episode(rows * turn + row, "")[0][1].text for row in range(rows)]
            for name in adapters:
                write(name, asked, 1)
                seconds[name].append(write(name, asked, tokens) - write(name, asked, 1))
    finally:
        lora._PATIENCE = patience
    one = adapters["folded"]
    assert one is not None
    start = time.perf_counter()
    folded = {name: change.folded(served._base[name].weight_OI) for name, change in one.changes.items()}
    fold_s = time.perf_counter() - start
    assert len(folded) == len(served._folded[one])
    start = time.perf_counter()
    for weights in (served._folded[one], {name: served._base[name].weight_OI for name in one.changes}):
        served._put(weights)
    swap_s = time.perf_counter() - start
    base_s = seconds["base"]
    hooks, whole = (
        statistics.median(b / s for b, s in zip(base_s, seconds[n], strict=True)) for n in ("hooks", "folded")
    )
    return Speeds(hooks, whole, fold_s, swap_s)


@pytest.mark.slow
@pytest.mark.model
def test_an_adapter_that_is_alone_writes_at_nine_tenths_of_the_speed_of_its_base() -> None:
    path = cached("smollm2")
    if path is None:
        pytest.skip("the embedded model is not in the cache: evolvent models pull smollm2")
    measured = measure_adapter(str(path))
    assert measured.folded >= 0.9
    assert measured.folded > measured.hooks
    assert measured.swap_s < 0.01


@pytest.mark.slow
@pytest.mark.model
def test_choosing_is_6_times_as_fast_for_one_episode_and_12_times_for_sixteen() -> None:
    path = cached("smollm2")
    if path is None:
        pytest.skip("the embedded model is not in the cache: evolvent models pull smollm2")
    measured = measure(str(path))
    assert measured.difference <= 1e-4
    assert measured.one >= 6
    assert measured.sixteen >= 12


if __name__ == "__main__":
    folder = cached("smollm2")
    assert folder is not None, "run `evolvent models pull smollm2` first"
    print(measure_adapter(str(folder)))
    print(measure(str(folder)))
