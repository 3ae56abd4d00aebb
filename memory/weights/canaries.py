"""Canaries: log-probabilities that only the trained adapter gives, measured at training time and kept beside it.

Told to serve an adapter, a server may serve its base, an older adapter or a wrong merge, and answer as fluently. So
each canary keeps, for one completion, what the adapter says and what those say that it must not be taken for. They are
computed by transformers and PEFT alone, in float32; who compares them with a server is another module's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from evolvent.memory.errors import BadCanariesError
from evolvent.memory.weights.dataset import Messages

FILE = "canaries.json"
BASE = "base"
CLEAR = 0.2
"""Nats per token between an adapter and what it must not be taken for: four times what a server may be off."""

Logprobs = tuple[float, ...]
"""Per token, in nats."""


@dataclass(frozen=True, slots=True)
class Canary:
    """One completion and how likely each of its tokens is, under the adapter and under its rivals."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    messages: Messages
    completion: str
    """What follows the generation header; the end of the turn is not part of it."""
    logprobs: Logprobs
    rivals: Mapping[str, Logprobs] = field(default_factory=dict)
    """By name, what must not be served instead; the base, as `base`, is always among them."""


_FILE = TypeAdapter(tuple[Canary, ...])


def distance(one: Logprobs, other: Logprobs) -> float:
    """Mean absolute difference in nats per token; infinite where they are not of the same tokens or not numbers."""
    if not one or len(one) != len(other):
        return math.inf
    mean = math.fsum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
    return mean if math.isfinite(mean) else math.inf


def separation(canaries: Sequence[Canary]) -> float:
    """How far the rival nearest to the adapter is from it, in nats per token, by the canary that shows it best."""
    names = {name for canary in canaries for name in canary.rivals}
    return min(
        (max(distance(c.logprobs, c.rivals[name]) for c in canaries if name in c.rivals) for name in names), default=0.0
    )


def measure(
    base: str | Path,
    adapter: str | Path,
    prompts: Sequence[Messages],
    *,
    completions: Sequence[str] | None = None,
    rivals: Mapping[str, str | Path] = {},
    keep: int = 8,
    max_tokens: int = 24,
) -> tuple[Canary, ...]:
    """The prompts on which the adapter differs most from the base and from every rival, at most `keep` of them.

    Args:
        base: folder of the weights it was trained on.
        adapter: folder that PEFT saved.
        prompts: candidates; those it was trained on show it best.
        completions: one for each prompt; None takes what the adapter writes greedily, `max_tokens` at most.
        rivals: folders of adapters that may be served by mistake, such as its parents, by name.

    Raises:
        BadCanariesError: fewer or more completions than prompts, weights that are not numbers, or no prompt that tells
            the adapter from a rival by `CLEAR` nats per token: then nothing could prove that it is served.
    """
    if completions is not None and len(completions) != len(prompts):
        raise BadCanariesError(f"{len(completions)} completions for {len(prompts)} prompts; expected one for each.")
    models = _Models(base, {**rivals, _TRAINED: adapter})
    candidates = []
    for i, messages in enumerate(prompts):
        prompt = models.prompt(messages)
        completion = models.write(prompt, max_tokens) if completions is None else completions[i]
        tokens = models.encode(completion)
        if tokens:
            trained = models.logprobs(prompt, tokens, _TRAINED)
            known = {name: models.logprobs(prompt, tokens, name) for name in (BASE, *rivals)}
            candidates.append(Canary(tuple(dict(m) for m in messages), completion, trained, known))
    return _kept(candidates, adapter, keep)


def measure_merged(
    base: str | Path,
    folder: str | Path,
    prompts: Sequence[Messages],
    *,
    completions: Sequence[str],
    rivals: Mapping[str, str | Path] = {},
    keep: int = 8,
) -> tuple[Canary, ...]:
    """The same for a folder of full weights that adapters of that base were merged into; see `measure`.

    Raises:
        BadCanariesError: as `measure`.
    """
    asked = list(zip(prompts, completions, strict=True))
    names = (BASE, *rivals)
    models = _Models(base, rivals)
    known = [
        {name: models.logprobs(models.prompt(messages), models.encode(text), name) for name in names}
        for messages, text in asked
    ]
    models = _Models(folder, {})
    candidates = [
        Canary(
            tuple(dict(m) for m in messages),
            text,
            models.logprobs(models.prompt(messages), models.encode(text), BASE),
            theirs,
        )
        for (messages, text), theirs in zip(asked, known, strict=True)
    ]
    return _kept(candidates, folder, keep)


def write(folder: str | Path, canaries: Sequence[Canary]) -> Path:
    """Keep them beside the adapter in `folder`."""
    path = Path(folder) / FILE
    path.write_bytes(_FILE.dump_json(tuple(canaries), indent=1))
    return path


def read(folder: str | Path) -> tuple[Canary, ...]:
    """
    Raises:
        BadCanariesError: none there, or the file is not what `write` wrote.
    """
    path = Path(folder) / FILE
    try:
        canaries = _FILE.validate_json(path.read_bytes())
    except OSError as error:
        raise BadCanariesError(
            f"No canaries at {str(path)!r} ({error.strerror}). Measure them on the machine that trained the adapter."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadCanariesError(
            f"{str(path)!r} does not hold canaries: {where}: {first['msg']}. Copy or measure them again."
        ) from error
    if not canaries or not all(BASE in canary.rivals for canary in canaries):
        raise BadCanariesError(f"{str(path)!r} has no canary, or one without its base. Measure them again.")
    return canaries


def _kept(candidates: Sequence[Canary], weights: str | Path, keep: int) -> tuple[Canary, ...]:
    # Stable, so equal candidates keep the order of the prompts.
    kept = tuple(sorted(candidates, key=lambda canary: -separation([canary]))[:keep])
    if separation(kept) < CLEAR:
        raise BadCanariesError(
            f"The adapter {str(weights)!r} is told from its nearest rival by {separation(kept):.3f} nats per token on "
            f"{len(candidates)} prompts; expected {CLEAR} or more. Give prompts it was trained on, or train it longer."
        )
    return kept


_TRAINED = "\0trained"
"""Cannot be the name of a rival."""


class _Models:
    """One base and several adapters in plain transformers and PEFT, one sequence at a time."""

    def __init__(self, base: str | Path, adapters: Mapping[str, str | Path]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from evolvent.memory.quiet import quiet_transformers

        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self._slots = {name: f"adapter{i}" for i, name in enumerate(adapters)}  # PEFT allows no dot in a name
        with quiet_transformers():
            model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            for name, folder in adapters.items():
                if isinstance(model, PeftModel):
                    model.load_adapter(str(folder), adapter_name=self._slots[name])
                else:
                    model = PeftModel.from_pretrained(model, str(folder), adapter_name=self._slots[name])
        self._model = model.eval()

    def prompt(self, messages: Messages) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def write(self, prompt: list[int], max_tokens: int) -> str:
        """What the trained adapter writes greedily."""
        self._model.set_adapter(self._slots[_TRAINED])
        ids = self._torch.tensor([prompt])
        written = self._model.generate(
            input_ids=ids,
            attention_mask=self._torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=self._tokenizer.eos_token_id,
        )[0, len(prompt) :]
        return str(self._tokenizer.decode(written, skip_special_tokens=True))

    def logprobs(self, prompt: list[int], tokens: list[int], name: str) -> Logprobs:
        """One full forward: no cache, no batch, nothing shared with what is to be verified."""
        ids, last = self._torch.tensor([prompt + tokens]), len(tokens) + 1
        with self._torch.inference_mode():
            if name == BASE:
                with self._model.disable_adapter() if self._slots else nullcontext():
                    logits = self._model(input_ids=ids, logits_to_keep=last).logits
            else:
                self._model.set_adapter(self._slots[name])
                logits = self._model(input_ids=ids, logits_to_keep=last).logits
            logprobs = logits[0, -last:-1].log_softmax(-1)
        values = tuple(float(logprobs[i, token]) for i, token in enumerate(tokens))
        if not all(map(math.isfinite, values)):
            raise BadCanariesError(
                f"Log-probabilities under the {'trained adapter' if name == _TRAINED else name} are not numbers: its "
                "training diverged. Train it again with a smaller learning rate."
            )
        return values
