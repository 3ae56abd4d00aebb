"""Messages as token ids, the way the model's own chat template writes them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from langchain_core.messages import BaseMessage, ChatMessage

Tokens = tuple[int, ...]
Turn = tuple[str, str]
"""Role and text."""

_ROLES = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool"}
_LONGEST_CHUNK = 512
"""Tokens computed in one forward: bounds the memory of a long prompt."""


@dataclass(frozen=True, slots=True)
class Prompt:
    chunks: tuple[Tokens, ...]
    """Cut where another prompt may go on differently: their prefixes are what an engine keeps."""
    header: Tokens
    """What opens the assistant's turn; at least one token."""

    @property
    def length(self) -> int:
        return sum(map(len, self.chunks)) + len(self.header)


class ChatTokenizer:
    """Tokenises prompts and continuations of one model.

    Args:
        path: a folder (or hub id) with a fast tokenizer and a chat template.

    Raises:
        ValueError: no chat template.
    """

    def __init__(self, path: str | Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
        if not self._tokenizer.chat_template:
            raise ValueError(f"{path} has no chat template; expected an instruction-tuned model.")
        self.ends: frozenset[int] = frozenset({self._tokenizer.eos_token_id} - {None})

    def prompt(self, turns: Sequence[Turn]) -> Prompt:
        """The prompt that asks for the assistant's next turn.

        It is tokenised as one text. Chunks end with every message that is not the assistant's: a reply and what
        answers it come together, as an episode grows.
        """
        messages = [{"role": role, "content": text} for role, text in turns]
        text = self._render(messages, header=True)
        ends = [i for i in range(1, len(turns)) if turns[i - 1][0] != "assistant"] + [len(turns)]
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = encoded["input_ids"]
        starts = [start for start, _ in encoded["offset_mapping"]]
        cuts = {0}
        for end in ends:
            try:
                head = self._render(messages[:end], header=False)
            except TemplateError:
                continue  # some templates refuse a conversation that ends here
            cut = bisect_left(starts, len(head))
            if text.startswith(head) and cut < len(ids) and starts[cut] == len(head):
                cuts.add(cut)
        bounds = sorted(cuts)
        chunks = [
            tuple(ids[at : min(at + _LONGEST_CHUNK, right)])
            for left, right in pairwise(bounds)
            for at in range(left, right, _LONGEST_CHUNK)
        ]
        return Prompt(tuple(chunks), tuple(ids[bounds[-1] :]))

    def _render(self, messages: list[dict[str, str]], *, header: bool) -> str:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header)
        assert isinstance(text, str)
        return text

    def encode(self, text: str) -> Tokens:
        """As it is tokenised from its first character on, without special tokens around it."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text


def turns_of(messages: Sequence[BaseMessage]) -> tuple[Turn, ...]:
    """
    Raises:
        ValueError: no message, or one of a role that no chat template knows.
    """
    if not messages:
        raise ValueError("No messages; expected at least one.")
    turns = []
    for message in messages:
        role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type)
        if role is None:
            raise ValueError(f"A message of type {message.type!r}; expected one of {', '.join(_ROLES)}.")
        turns.append((role, str(message.text)))
    return tuple(turns)


def check_window(prompt: Prompt, more: int, window: int) -> None:
    """
    Raises:
        ValueError: the prompt and `more` tokens are longer than the model's window.
    """
    if prompt.length + more > window:
        raise ValueError(
            f"The prompt has {prompt.length} tokens and needs room for {more}; the model's window is {window}. "
            "Shorten the history or the memory."
        )
