"""What every training shares with its caller: settings, progress, result, and rows as token ids.

A prompt and a completion are tokenised apart, as generation does: the prompt with its generation header as one text,
then the completion from its first character on and the token that ends the turn. Loads no library of its own weight;
the trainers are `sft.py` and `preference.py`, and `loop.py` is what they share.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evolvent.memory.errors import BadTrainingError

TENSORS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
CURVE, JOURNAL, CHECKPOINTS = "loss.jsonl", "training.json", "checkpoints"

Row = Mapping[str, Any]
"""One line of a data set in TRL's conversational form."""


class Training(BaseModel):
    """How to train; the defaults are for SmolLM2-135M on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float | None = Field(None, gt=0)
    """At its peak: after a warm-up of 5 % of the steps it falls linearly to zero. None is the method's own, 2e-4 for
    supervised training and 2e-5 for preferences."""
    epochs: float = Field(3, gt=0)
    steps: int | None = Field(None, ge=1)
    """Of the optimizer, instead of epochs."""
    batch_size: int = Field(8, ge=1)
    """Rows of one step."""
    forward_tokens: int = Field(2048, ge=1)
    """Of one forward, padding included: a batch is computed in as many forwards as that takes. Bounds the memory: about
    2 MB for each token of SmolLM2. A row that is longer goes alone."""
    max_length: int = Field(2048, ge=2)
    """Tokens of prompt and completion. A longer row is left out and counted, since half a completion teaches an end
    that is none."""
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    variant: Literal["lora", "dora", "rslora"] = "lora"
    """LoRA (arXiv 2106.09685), DoRA (2402.09353) or rank-stabilised LoRA (2312.03732)."""
    targets: tuple[str, ...] = ()
    """Ends of the names of the linear layers to adapt; empty takes all but the output layer."""
    kl: float = Field(0, ge=0)
    """Of supervised training: what a nat of KL(base ‖ tuned) at a token adds to the loss. Keeps the model near its
    base, and costs a second forward."""
    anchor: float = Field(0, ge=0)
    """Of supervised training: rows of rehearsal are not imitated but hold the tuned model to its base, and a nat of
    KL(base ‖ tuned) at one of their tokens counts so much. 0 imitates them like all others."""
    save_every: int = Field(50, ge=1)
    """Steps between checkpoints."""
    seed: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the optimizer: a line of `loss.jsonl`."""

    step: int
    """From 1."""
    of: int
    loss: float
    """In nats per token (supervised), or as the preference method defines it."""
    tokens: int
    """Trained on so far, prompts included and padding left out."""
    seconds: float
    """Of training so far, those before an interruption included."""
    validation: float | None = None
    """Mean loss of the validation rows, in nats per token, where it was measured."""


OnStep = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Trained:
    folder: Path
    """Holds `adapter_model.safetensors`, `adapter_config.json`, `loss.jsonl` and `training.json`."""
    curve: tuple[Step, ...]
    rows: int
    """Trained on."""
    left_out: int
    """Rows that are longer than `max_length`."""
    peak_bytes: int
    """Of memory: the device's for this training, on a CPU the process's since it started."""

    @property
    def loss(self) -> float:
        """Of the last step."""
        return self.curve[-1].loss

    @property
    def tokens(self) -> int:
        return self.curve[-1].tokens

    @property
    def seconds(self) -> float:
        return self.curve[-1].seconds


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt and its completion as token ids."""

    prompt: list[int]
    """Ends with the header that opens the assistant's turn."""
    completion: list[int]
    """Ends with the token that ends the turn."""
    heard: frozenset[int] = frozenset()
    """Places in the completion, from 0, of what the assistant was told between its turns: no part of any loss."""

    @property
    def said(self) -> list[int]:
        """1 for each token of the completion that is the assistant's own, ends of turns among them, else 0."""
        return [int(place not in self.heard) for place in range(len(self.completion))]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)


class Encoder:
    """
    Args:
        base: a folder (or hub id) with a tokenizer and a chat template.

    Raises:
        BadTrainingError: no tokenizer there, no chat template, or no token that ends a turn.
    """

    def __init__(self, base: str | Path) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        except (OSError, ValueError) as error:
            raise BadTrainingError(
                f"No tokenizer in {str(base)!r}: {_first_line(error)}. Give the base's folder."
            ) from error
        if not self.tokenizer.chat_template or self.tokenizer.eos_token_id is None:
            raise BadTrainingError(
                f"{str(base)!r} has no chat template or no end token; expected an instruction-tuned model."
            )

    def encode(self, prompt: Sequence[Row], completion: Sequence[Row]) -> Encoded:
        """
        Raises:
            BadTrainingError: the prompt is empty, or the completion is not one message of the assistant.
        """
        if not prompt or len(completion) != 1 or completion[0].get("role") != "assistant":
            raise BadTrainingError(
                f"A row with the prompt {_short(prompt)} and the completion {_short(completion)}; "
                "expected messages, then one message of the assistant."
            )
        return Encoded(self._ids(self._asked(prompt)), self._turn(completion[0]["content"]))

    def encode_dialogue(self, prompt: Sequence[Row], turns: Sequence[Row]) -> Encoded:
        """A completion of several turns, tokenised as each of them was asked for in its turn.

        Raises:
            BadTrainingError: as `encode`; also when not every second message is one of the assistant, from the first to
                the last, or when the chat template changes a turn once others follow it.
        """
        own, others = turns[::2], turns[1::2]
        roles = [each.get("role") for each in own], [each.get("role") for each in others]
        if len(own) != len(others) + 1 or set(roles[0]) != {"assistant"} or "assistant" in roles[1]:
            raise BadTrainingError(
                f"The dialogue {_short(turns)} after the prompt {_short(prompt)}; "
                "expected turns of the assistant with one message between two of them."
            )
        encoded = self.encode(prompt, own[:1])
        completion, heard = encoded.completion, set[int]()
        text = self._asked(prompt) + own[0]["content"] + self.tokenizer.eos_token
        for at in range(2, len(turns), 2):
            asked = self._asked([*prompt, *turns[:at]])
            if not asked.startswith(text):
                raise BadTrainingError(
                    f"The chat template writes {asked[-80:]!r} where the turns before it were {text[-80:]!r}. "
                    "Take a model whose template leaves earlier turns as they were said."
                )
            between = self._ids(asked.removeprefix(text))
            heard |= set(range(len(completion), len(completion) + len(between)))
            completion = [*completion, *between, *self._turn(turns[at]["content"])]
            text = asked + turns[at]["content"] + self.tokenizer.eos_token
        return Encoded(encoded.prompt, completion, frozenset(heard))

    def _asked(self, messages: Sequence[Row]) -> str:
        text: str = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return text

    def _turn(self, text: str) -> list[int]:
        return [*self._ids(text), self.tokenizer.eos_token_id]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def fit(
    rows: Sequence[Row], columns: Sequence[str], encode: Callable[[Row], tuple[Encoded, ...]], config: Training
) -> list[tuple[Row, tuple[Encoded, ...]]]:
    """Those rows of which no sequence is too long, in their order, and their sequences.

    Raises:
        BadTrainingError: there is no row, one lacks a column, or all are too long.
    """
    if not rows:
        raise BadTrainingError("No rows to train on. Make the data set from trajectories that succeeded.")
    encoded = []
    for i, row in enumerate(rows):
        missing = [column for column in columns if column not in row]
        if missing:
            raise BadTrainingError(
                f"Row {i} has no {missing[0]!r}, only {', '.join(sorted(row))}; expected {', '.join(columns)}. "
                "Is the data set of another form than the method?"
            )
        encoded.append((row, encode(row)))
    kept = [(row, each) for row, each in encoded if longest(each) <= config.max_length]
    if not kept:
        raise BadTrainingError(
            f"All {len(rows)} rows have more than {config.max_length} tokens, the shortest "
            f"{min(longest(each) for _, each in encoded)}. Raise max_length or shorten the prompts."
        )
    return kept


def longest(sequences: Sequence[Encoded]) -> int:
    """In tokens."""
    return max(each.length for each in sequences)


def total_steps(rows: int, config: Training) -> int:
    """Of the optimizer."""
    return config.steps or max(1, round(config.epochs * math.ceil(rows / config.batch_size)))


class Journal(BaseModel):
    """What `training.json` says of the training in its folder, so that another one is never resumed by mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: dict[str, Any]
    """Name and settings that `config` does not have."""
    config: Training
    fingerprint: str
    """Equal for two trainings that give the same adapter; SHA-256 in hex."""
    rows: int
    left_out: int
    peak_bytes: int | None = None
    """None until the training has ended."""


def journal(
    method: dict[str, Any], base: str | Path, start: Path | None, rows: Sequence[Row], left_out: int, config: Training
) -> Journal:
    """Of a training that begins."""
    digest = hashlib.sha256(json.dumps([method, config.model_dump(), list(map(dict, rows))], sort_keys=True).encode())
    for folder, names in ((Path(base), ("config.json", "tokenizer.json")), (start, (TENSORS,))):
        for name in names:
            path = folder / name if folder else None
            digest.update(path.read_bytes() if path and path.is_file() else str(folder).encode())
    return Journal(method=method, config=config, fingerprint=digest.hexdigest(), rows=len(rows), left_out=left_out)


def open_folder(out: Path, begun: Journal, *, resume: bool) -> Trained | None:
    """Make `out` ready for a training; its result, where that training has ended there already.

    Args:
        resume: go on from what is there; False starts over.

    Raises:
        BadTrainingError: `out` holds something else.
    """
    if not resume:
        for name in (JOURNAL, TENSORS, SETTINGS, CURVE):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    try:
        there = Journal.model_validate_json((out / JOURNAL).read_bytes())
    except FileNotFoundError:
        if (out / TENSORS).exists():
            raise BadTrainingError(f"{str(out)!r} holds an adapter of unknown origin. Give another folder.") from None
    except ValidationError as error:
        raise BadTrainingError(f"{str(out / JOURNAL)!r} is no journal of a training. Give another folder.") from error
    else:
        if there.fingerprint != begun.fingerprint:
            raise BadTrainingError(
                f"{str(out)!r} holds a training with other rows, settings or base ({there.fingerprint[:12]}, this one "
                f"is {begun.fingerprint[:12]}). Give another folder, or start over with resume=False."
            )
        if there.peak_bytes is not None and (out / TENSORS).is_file():
            return result(out, there)
    out.mkdir(parents=True, exist_ok=True)
    _replace(out / JOURNAL, begun.model_dump_json(indent=1))
    return None


def close_folder(out: Path, begun: Journal, curve: Sequence[Step], peak_bytes: int) -> Trained:
    """Mark the training in `out` as ended and drop what only a resumed one needs."""
    ended = begun.model_copy(update={"peak_bytes": peak_bytes})
    _replace(out / CURVE, "".join(as_line(step) + "\n" for step in curve))
    _replace(out / JOURNAL, ended.model_dump_json(indent=1))
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return result(out, ended)


def read_curve(folder: Path) -> tuple[Step, ...]:
    """The steps of the training whose adapter lies in `folder`; empty where none was kept."""
    file = folder / CURVE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return tuple(Step(**json.loads(line)) for line in lines)


def result(out: Path, ended: Journal) -> Trained:
    curve = read_curve(out)
    assert curve
    assert ended.peak_bytes is not None
    return Trained(out, curve, ended.rows, ended.left_out, ended.peak_bytes)


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def as_line(step: Step) -> str:
    return json.dumps({key: value for key, value in asdict(step).items() if value is not None})


def _short(messages: Sequence[Row]) -> str:
    text = repr(list(messages))
    return text if len(text) <= 80 else f"{text[:77]}…"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
