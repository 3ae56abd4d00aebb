"""One command for a new machine: does everything that weights need work here, and how fast?

    make gpu-check

No download: a Llama of ten million parameters is generated. An adapter is trained on it (in bfloat16 where the device
has it), saved, registered, swapped in, and proved to be served by its canaries; then another, and the first again.
Training is timed against a bare PEFT loop over the same batches, in turns. On a CPU all of it runs too, slower.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, the tests' own modules are not on the path

import torch
from benchmarks.bench_training import measure
from rich.console import Console
from rich.table import Table
from tiny_llama import write_base

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.verify import TOLERANCE, compare
from evolvent.memory.weights import canaries
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.sft import train_sft
from evolvent.memory.weights.training import Row, Training

SIZE = {
    "hidden_size": 320,
    "intermediate_size": 1024,
    "num_hidden_layers": 7,
    "num_attention_heads": 10,
    "head_dim": 32,
}
TOOLS = ("oil", "wax", "file", "clamp", "brush", "glue", "lamp", "chalk")


def rows(shift: int) -> list[Row]:
    """What to learn: a tool for each number; another one with another shift."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Flaw {n}. Which tool?"}],
            "completion": [{"role": "assistant", "content": f"Take the {TOOLS[(n + shift) % len(TOOLS)]}."}],
        }
        for n in range(32)
    ]


def adapter(base: str, scratch: Path, registry: Adapters, shift: int) -> Adapter:
    folder = scratch / f"training-{shift}"
    taught = rows(shift)
    train_sft(base, taught, folder, Training(steps=30, learning_rate=3e-3))
    prompts = [tuple(row["prompt"]) for row in taught]
    completions = [row["completion"][0]["content"] for row in taught]
    canaries.write(folder, canaries.measure(base, folder, prompts, completions=completions))
    return registry.register(folder, f"tools-{shift}", base="generated", created="")


async def main() -> int:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    table = Table("what", "found", "expected", title=f"{device}, {'bfloat16' if bf16 else 'float32'}")
    wrong = 0

    def tell(what: str, found: str, expected: str, ok: bool) -> None:
        nonlocal wrong
        wrong += not ok
        table.add_row(what, found, expected, style="" if ok else "bold red")

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        base = write_base(scratch / "base", initializer_range=0.05, **SIZE)
        model = LocalChatModel(path=base)
        model.load()
        registry = Adapters(scratch / "run")
        first, second = (adapter(base, scratch, registry, shift) for shift in (0, 3))
        for each, other in ((first, second), (second, first), (first, second)):
            started = time.perf_counter()
            served = model.with_adapter(registry.check(each).folder)
            seconds = time.perf_counter() - started
            verified = await compare(served, canaries.read(each.folder), base=model)
            tell(
                f"{each.full_name} swapped in {seconds * 1000:.0f} ms",
                f"{verified.worst:.4f} nats off",
                f"at most {TOLERANCE}",
                verified.ok,
            )
            mistaken = await compare(served, canaries.read(other.folder), base=model)
            tell(f"taken for {other.full_name}", f"{mistaken.worst:.2f} nats off", "noticed", not mistaken.ok)
        plain = await compare(model, canaries.read(first.folder))
        tell("the base served instead", f"{plain.worst:.2f} nats off", "noticed", not plain.ok)
        speed = measure(base)
        tell("training, in a bare PEFT loop's speed", f"{speed.over_plain:.2f}", "0.9 or more", speed.over_plain >= 0.9)
        tell("bucketed, in a padded batch's speed", f"{speed.over_padded:.2f}", "reported", True)
        tell("training", f"{speed.tokens_per_second:,.0f} tokens/s", "reported", True)
        tell("peak memory", f"{speed.peak_bytes / 1e6:,.0f} MB", "reported", True)
    Console().print(table)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
