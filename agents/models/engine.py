"""A decoder on two cores serving many episodes: prefixes kept from step to step, options packed into one forward.

A prompt is computed chunk by chunk, each in a forward of its own on top of the chunks before it, and each chunk's keys
and values are kept. So a chunk's values depend on the prompt alone, not on what happened to be cached: at one request
at a time, a run that starts over repeats bit for bit. The tail (generation header, then the options as a token tree,
or the tokens written so far) is computed on top and thrown away.

Rows of one forward may have different LoRA adapters over the one base. A prefix is kept for each adapter apart: its
keys and values are that adapter's, within the rounding by which the two ways of serving one differ (`lora.py`).
"""

from __future__ import annotations

import itertools
import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.cache_utils import Cache

from evolvent.agents.models.lora import Adapter, RowAdapters
from evolvent.agents.models.tokens import Prompt, Tokens
from evolvent.memory.quiet import quiet_transformers

_BATCH_TOKENS = 16_384
"""Keys of one forward, over all rows and padding included: 750 MB for SmolLM2-135M."""
_BATCH_LOGITS = 2_048
"""Positions of one forward whose logits are kept: 400 MB with a vocabulary of 49,152."""

_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


@dataclass(frozen=True, slots=True)
class Choice:
    prompt: Prompt
    options: tuple[Tokens, ...]
    """At least one token each."""
    adapter: Adapter | None = None
    """None asks the base."""


@dataclass(frozen=True, slots=True)
class Draft:
    prompt: Prompt
    max_tokens: int
    stops: Callable[[Sequence[int]], bool]
    """Told the tokens written so far after each one; true ends the draft."""
    temperature: float = 0.0
    seed: int = 0
    adapter: Adapter | None = None
    """None asks the base."""


class Engine:
    """Not thread-safe: one thread at a time uses it.

    Args:
        path: a folder (or hub id) with a causal decoder whose layers all attend to the whole prefix.
        cache_bytes: of keys and values kept between requests; the least recently used prefixes go first.
    """

    def __init__(self, path: str | Path, *, cache_bytes: int = 2**30) -> None:
        self.model = _load(path)
        config = self.model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(f"{path}: layers of kind {', '.join(sorted(kinds))}; expected full_attention only.")
        self.window: int = config.max_position_embeddings
        """Tokens of prompt and reply together."""
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._kv_shape = (config.num_hidden_layers, heads, width)
        self._prefixes = _Prefixes(cache_bytes)
        self._adapters = RowAdapters(self.model)
        self.forward_tokens = 0
        """Tokens computed so far, padding left out."""

    def adapter(self, folder: str | Path) -> Adapter:
        """Read an adapter for this base; any thread may. It lives as long as it is referred to.

        Raises:
            BadAdapterError: it cannot be served on this base.
        """
        return self._adapters.read(folder)

    @torch.inference_mode()
    def score(self, choices: Sequence[Choice]) -> list[tuple[tuple[float, ...], ...]]:
        """Log-probability of each token of each option, in nats."""
        trees = [_Tree.of(choice.options) for choice in choices]
        paths = self._prefill(choices)
        rows = [
            _Row(path, choice.prompt.header + tree.tokens, tree.below(len(choice.prompt.header)), choice.adapter)
            for choice, tree, path in zip(choices, trees, paths, strict=True)
        ]
        scores: list[tuple[tuple[float, ...], ...]] = [()] * len(rows)
        for group in _batches(rows):
            first = min(len(choices[i].prompt.header) for i in group) - 1
            _, logits_BTV = self._forward([rows[i] for i in group], first_logit=first)
            normaliser_BT = torch.logsumexp(logits_BTV, -1)
            for b, i in enumerate(group):
                base = len(choices[i].prompt.header) - first
                at = torch.tensor([base + node for reads in trees[i].reads for node in reads])
                token = torch.tensor([token for option in choices[i].options for token in option])
                flat = iter((logits_BTV[b, at, token] - normaliser_BT[b, at]).tolist())
                scores[i] = tuple(tuple(itertools.islice(flat, len(option))) for option in choices[i].options)
        return scores

    @torch.inference_mode()
    def generate(self, drafts: Sequence[Draft]) -> list[list[int]]:
        """The tokens each draft wrote, the one that ended it included."""
        paths = self._prefill(drafts)
        rows = [
            _Row(path, draft.prompt.header, _Tree.of(()).below(len(draft.prompt.header)), draft.adapter)
            for draft, path in zip(drafts, paths, strict=True)
        ]
        written: list[list[int]] = [[] for _ in drafts]
        for group in _batches(rows, room=max((draft.max_tokens for draft in drafts), default=0)):
            self._decode([drafts[i] for i in group], [rows[i] for i in group], [written[i] for i in group])
        return written

    def _decode(self, drafts: list[Draft], rows: list[_Row], written: list[list[int]]) -> None:
        samplers = [torch.Generator().manual_seed(draft.seed) for draft in drafts]
        first = min(len(row.new) for row in rows) - 1
        batch, logits_BTV = self._forward(rows, first_logit=first, room=max(draft.max_tokens for draft in drafts))
        logits_BV = logits_BTV[torch.arange(len(rows)), torch.tensor([len(row.new) - 1 - first for row in rows])]
        active = list(range(len(rows)))  # the draft of each row of the batch
        finished = [False] * len(rows)
        while True:
            for b, i in enumerate(active):
                if not finished[i]:
                    written[i].append(_pick(logits_BV[b], drafts[i].temperature, samplers[i]))
                    finished[i] = len(written[i]) >= drafts[i].max_tokens or drafts[i].stops(written[i])
            going = [b for b, i in enumerate(active) if not finished[i]]
            if not going:
                return
            if len(going) <= len(active) // 2:
                batch, active = batch.select(going), [active[b] for b in going]
            ids_B1 = torch.tensor([written[i][-1:] for i in active])
            positions_B1 = torch.tensor([[rows[i].length + len(written[i]) - 1] for i in active])
            mask_B11T = batch.seen[:, None, None, : batch.filled + 1]
            self.forward_tokens += len(going)
            logits_BV = self._call(batch, ids_B1, positions_B1, mask_B11T, first_logit=0)[:, 0]

    def _prefill(self, requests: Sequence[Choice | Draft]) -> list[list[_Block]]:
        """The blocks of every prompt's chunks; a chunk that several prompts miss is computed once."""
        paths: list[list[_Block]] = [[] for _ in requests]
        while True:
            missing: dict[_Key, list[int]] = {}
            for i, (request, path) in enumerate(zip(requests, paths, strict=True)):
                chunks = request.prompt.chunks
                while len(path) < len(chunks):
                    key = (path[-1].serial if path else _root(request.adapter), chunks[len(path)])
                    block = self._prefixes.get(key)
                    if block is None:
                        missing.setdefault(key, []).append(i)
                        break
                    path.append(block)
            if not missing:
                break
            keys = list(missing)
            rows = [
                _Row(list(paths[first]), key[1], _causal(len(key[1])), requests[first].adapter)
                for key, (first, *_) in missing.items()
            ]
            for group in _batches(rows):
                batch, _ = self._forward([rows[i] for i in group], first_logit=None)
                for b, i in enumerate(group):
                    block = self._prefixes.add(keys[i], batch.written(b, len(rows[i].new)))
                    for waiting in missing[keys[i]]:
                        paths[waiting].append(block)
        self._prefixes.touch(paths)
        return paths

    def _forward(self, rows: Sequence[_Row], *, first_logit: int | None, room: int = 0) -> tuple[_Batch, Tensor]:
        """Compute the rows' new tokens, left-aligned behind the longest past; logits from position `first_logit`."""
        past = max(row.past_length for row in rows)
        new = max(len(row.new) for row in rows)
        layers, heads, width = self._kv_shape
        # Zeros, not garbage: a masked NaN is still a NaN after the softmax.
        batch = _Batch(
            kv=torch.zeros(layers, 2, len(rows), heads, past + new + room, width),
            seen=torch.ones(len(rows), past + new + room, dtype=torch.bool),
            filled=past,
            adapters=[row.adapter for row in rows],
        )
        batch.seen[:, : past + new] = False
        ids_BT = torch.zeros(len(rows), new, dtype=torch.long)
        positions_BT = torch.zeros(len(rows), new, dtype=torch.long)
        mask_BTT = torch.zeros(len(rows), new, past + new, dtype=torch.bool)
        mask_BTT[:, :, past:] = torch.eye(new, dtype=torch.bool)  # padding sees itself, or it becomes NaN
        for b, row in enumerate(rows):
            start, n = 0, len(row.new)
            for block in row.past:
                batch.kv[:, :, b, :, start : start + block.length] = block.kv
                start += block.length
            ids_BT[b, :n] = torch.tensor(row.new)
            positions_BT[b, :n] = start + row.sees_TT.sum(-1) - 1
            mask_BTT[b, :n, :start] = True
            mask_BTT[b, :n, past : past + n] = row.sees_TT
            batch.seen[b, :start] = True
            batch.seen[b, past : past + n] = True
            self.forward_tokens += n
        return batch, self._call(batch, ids_BT, positions_BT, mask_BTT[:, None], first_logit=first_logit)

    def _call(
        self, batch: _Batch, ids_BT: Tensor, positions_BT: Tensor, mask_B1TT: Tensor, *, first_logit: int | None
    ) -> Tensor:
        """One forward; float32 logits from position `first_logit`, or none at all for None."""
        inputs = {
            "input_ids": ids_BT,
            "position_ids": positions_BT,
            "attention_mask": mask_B1TT,
            "past_key_values": batch,
            "use_cache": True,
        }
        with self._adapters.serving(batch.adapters):
            if first_logit is None:
                self.model.get_decoder()(**inputs)
                logits = torch.empty(0)
            else:
                logits = self.model(**inputs, logits_to_keep=ids_BT.shape[1] - first_logit).logits
        batch.filled += ids_BT.shape[1]
        return logits


@dataclass(frozen=True, slots=True)
class _Tree:
    """Options as a tree of tokens: what they share is computed once, and nothing is computed for a last token."""

    tokens: Tokens
    parents: Tokens
    """Per token, the index of the one before it; -1 is the end of the header."""
    reads: tuple[Tokens, ...]
    """Per option and token, the node whose logits predict it."""

    @classmethod
    def of(cls, options: Sequence[Tokens]) -> _Tree:
        nodes: dict[tuple[int, int], int] = {}
        reads = []
        for option in options:
            at, path = -1, [-1]
            for token in option[:-1]:
                at = nodes.setdefault((at, token), len(nodes))
                path.append(at)
            reads.append(tuple(path))
        return cls(tuple(token for _, token in nodes), tuple(parent for parent, _ in nodes), tuple(reads))

    def below(self, header: int) -> Tensor:
        """Who sees whom among `header` tokens followed by the tree's; bool, [query, key]."""
        sees_TT = torch.zeros(header + len(self.tokens), header + len(self.tokens), dtype=torch.bool)
        sees_TT[:header, :header] = _causal(header)
        for node, parent in enumerate(self.parents, start=header):
            sees_TT[node] = sees_TT[header + parent]
            sees_TT[node, node] = True
        return sees_TT


def _causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """The keys and values of one chunk behind one prefix."""

    serial: int
    kv: Tensor
    """[layer, key or value, head, token, width]"""

    @property
    def length(self) -> int:
        return self.kv.shape[3]


_Key = tuple[int, Tokens]
"""The prefix's last block (at the start, the adapter's root) and the chunk."""


def _root(adapter: Adapter | None) -> int:
    return -adapter.serial if adapter is not None else 0


class _Prefixes:
    """Blocks by prefix, least recently used first. A block is always newer than the blocks that build on it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._serials = itertools.count(1)
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._keys: dict[int, _Key] = {}

    def get(self, key: _Key) -> _Block | None:
        return self._blocks.get(key)

    def add(self, key: _Key, kv: Tensor) -> _Block:
        block = _Block(next(self._serials), kv)
        self._blocks[key] = block
        self._keys[block.serial] = key
        self._bytes += kv.nbytes
        return block

    def touch(self, paths: Iterable[Sequence[_Block]]) -> None:
        """Mark as used, then drop what is over the limit."""
        for path in paths:
            for block in reversed(path):
                self._blocks.move_to_end(self._keys[block.serial])
        while self._bytes > self._limit:
            _, block = self._blocks.popitem(last=False)
            del self._keys[block.serial]
            self._bytes -= block.kv.nbytes


@dataclass(frozen=True, slots=True)
class _Row:
    past: list[_Block]
    new: Tokens
    sees_TT: Tensor
    """Which of `new` sees which; a token's position is the number it sees."""
    adapter: Adapter | None
    past_length: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "past_length", sum(block.length for block in self.past))

    @property
    def length(self) -> int:
        return self.past_length + len(self.new)


def _batches(rows: Sequence[_Row], *, room: int = 0) -> Iterator[list[int]]:
    """Indices of rows that go well into one forward: of like length, within the limits of memory, by adapter."""

    def by_adapter(i: int) -> int:
        return _root(rows[i].adapter)

    group: list[int] = []
    past = new = 0
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i].new)):
        longest = max(past, rows[i].past_length)
        full = (len(group) + 1) * (longest + new + room) > _BATCH_TOKENS or (len(group) + 1) * new > _BATCH_LOGITS
        if group and (full or len(rows[i].new) < new // 2 - 16):
            yield sorted(group, key=by_adapter)
            group, longest = [], rows[i].past_length
        if not group:
            new = len(rows[i].new)
        group.append(i)
        past = longest
    if group:
        yield sorted(group, key=by_adapter)


class _Batch(Cache):
    """Keys and values of the rows of a forward, in one tensor that is written in place."""

    def __init__(self, kv: Tensor, seen: Tensor, filled: int, adapters: list[Adapter | None]) -> None:
        super().__init__(layers=[])
        self.kv = kv
        """[layer, key or value, row, head, token, width]"""
        self.seen = seen
        """Which tokens are the row's own, not padding; bool, [row, token]"""
        self.past = self.filled = filled
        self.adapters = adapters
        """By row."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        end = self.filled + key_states.shape[2]
        keys, values = self.kv[layer_idx]
        keys[:, :, self.filled : end] = key_states
        values[:, :, self.filled : end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.filled

    def written(self, row: int, length: int) -> Tensor:
        """A copy of the first `length` tokens that were computed for a row."""
        return _apart(self.kv[:, :, row, :, self.past : self.past + length])

    def select(self, rows: list[int]) -> _Batch:
        return _Batch(self.kv[:, :, rows], self.seen[rows], self.filled, [self.adapters[row] for row in rows])


def _apart(values: Tensor) -> Tensor:
    """A copy in pages of its own, which go back to the system with it. In the heap, what is kept for long lies among
    what is soon freed and holds it: a process that answers different prompts for hours would only grow."""
    pages = mmap.mmap(-1, values.nbytes, **_PRIVATE)
    return torch.frombuffer(pages, dtype=values.dtype).view(values.shape).copy_(values)


def _pick(logits_V: Tensor, temperature: float, sampler: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits_V.argmax())
    return int(torch.multinomial(torch.softmax(logits_V / temperature, -1), 1, generator=sampler))


def _load(path: str | Path) -> Any:
    """The model, ready for a CPU: float32, grouped attention, weights in the layout that is fast for few rows."""
    AttentionInterface.register("grouped", _grouped_attention)
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="grouped")
    model.eval()
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            module.weight = torch.nn.Parameter(module.weight.t().contiguous().t(), requires_grad=False)
    return model


def _grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention without repeating keys for the query heads that share them: those heads become further queries."""
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ValueError(f"{type(module).__name__} needs capped or sunk attention, which the embedded engine lacks.")
    rows, heads, length, width = query.shape
    shared = heads // key.shape[1]
    output = functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], shared * length, width),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, shared, 1),
        scale=scaling,
    )
    return output.reshape(rows, heads, length, width).transpose(1, 2).contiguous(), None
