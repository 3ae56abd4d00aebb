"""How fast the embedded model chooses, against scoring every option with the full prompt at every step.

    python tests/benchmarks/bench_local_inference.py

Episodes have a 150-token prompt that grows by 25 tokens a step, with four options of 3 to 6 tokens at each of 8 steps.
The plain way is one episode at a time, four full sequences a step, in the layout the weights are stored in. Both ways
are timed in turn, so that other work on the machine slows both; what counts is the ratio.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from transformers import AutoModelForCausalLM

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.tokens import ChatTokenizer
from evolvent.memory.cache import cached

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
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    head = "You work in a shop. Answer with one tool. " * 9
    seeds = iter(range(10_000))
    plain(reference, tokenizer, episode(next(seeds), head)[0])
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
            expected = plain(reference, tokenizer, prompts[step])
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
    print(measure(str(folder)))
