"""The embedded chat model: open weights on this machine's cores, no key, no server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr

from evolvent.agents.errors import BadAdapterError, ModelUnavailableError
from evolvent.agents.models.batching import Batcher
from evolvent.agents.models.protocol import Scores
from evolvent.agents.models.tokens import ChatTokenizer, Turn, check_window, turns_of
from evolvent.memory.compute import compute

if TYPE_CHECKING:
    from evolvent.agents.models.engine import Choice, Draft, Engine
    from evolvent.agents.models.lora import Adapter


class LocalChatModel(BaseChatModel):
    """A chat model and a `Scorer` over a folder of Hugging Face weights.

    Calls that wait together are answered together, from any number of event loops and threads, and what a prompt
    shares with earlier ones is not computed again. The weights are loaded by `load` or the first call.

    A call may give `temperature` (0, the default, is greedy), `max_tokens`, `stop` and `seed`. The same call gives the
    same reply.
    """

    path: str
    """A folder, or a hub id where a hub can be reached."""
    cache_bytes: int = Field(default=2**30, ge=0)
    """Of keys and values kept between calls."""
    max_tokens: int = Field(default=256, ge=1)
    """Written at most, when a call does not say."""
    seed: int = 0
    """Of sampling, when a call does not say."""
    adapter: str | None = None
    """A folder with a LoRA adapter in PEFT's format, read by `load` or the first call; None serves the base."""

    _weights: _Weights = PrivateAttr()
    _batcher: Batcher[_Writing | _Scoring, AIMessage | Scores] = PrivateAttr()
    _lora: _Lora | None = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._weights = _Weights(self.path, self.cache_bytes)
        self._batcher = Batcher(self._weights.answer)
        self._lora = _Lora(self.adapter) if self.adapter is not None else None

    @property
    def _llm_type(self) -> str:
        return "evolvent-local"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"path": self.path, "adapter": self.adapter, "seed": self.seed, "max_tokens": self.max_tokens}

    @property
    def forward_tokens(self) -> int:
        """Tokens really computed so far: what was cached and what is padding are left out."""
        return self._weights.forward_tokens

    def load(self) -> None:
        """Load the weights now.

        Raises:
            ModelUnavailableError: they are not there, or not of a kind this engine runs.
        """
        compute(self._load)

    def _load(self) -> None:
        engine = self._weights.load()
        if self._lora is not None:
            self._lora.load(engine)

    def with_adapter(self, folder: str | Path) -> LocalChatModel:
        """This model's base with the adapter in `folder` on top, loaded now and instead of one that is served here.

        The new model shares weights, tokenizer, worker thread, cache and counts with this one, and calls of both are
        answered in one batch. A folder that changes later changes nothing until it is given again.

        Raises:
            BadAdapterError: the adapter cannot be served on this base.
        """
        view = self.model_copy(update={"adapter": str(folder)})
        view._lora = _Lora(str(folder))
        view.load()
        return view

    def with_weights(self, folder: str | Path) -> LocalChatModel:
        """A model like this one over the weights in `folder`, loaded now; it shares nothing with this one.

        Raises:
            ModelUnavailableError: they are not there, or not of a kind this engine runs.
        """
        other = LocalChatModel(
            path=str(folder), cache_bytes=self.cache_bytes, max_tokens=self.max_tokens, seed=self.seed
        )
        other.load()
        return other

    def remove_adapter(self) -> None:
        """Free the adapter's weights; later calls of this model fail. What the cache keeps of it is the first to go."""
        if self._lora is not None:
            self._lora.remove()

    def count_tokens(self, text: str) -> int:
        return len(self._weights.tokenizer.encode(text))

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        request = _Scoring(turns_of(messages), tuple(continuations), self._lora)
        scores = await asyncio.wrap_future(self._batcher.submit(request))
        assert isinstance(scores, Scores)
        return scores

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self._write(messages, stop, **kwargs).result())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(await asyncio.wrap_future(self._write(messages, stop, **kwargs)))

    def _write(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        *,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> Future[AIMessage | Scores]:
        return self._batcher.submit(
            _Writing(
                turns_of(messages),
                tuple(stop or ()),
                temperature,
                self.max_tokens if max_tokens is None else max_tokens,
                self.seed if seed is None else seed,
                self._lora,
            )
        )


@dataclass(frozen=True, slots=True)
class _Writing:
    turns: tuple[Turn, ...]
    stop: tuple[str, ...]
    temperature: float
    max_tokens: int
    seed: int
    lora: _Lora | None


@dataclass(frozen=True, slots=True)
class _Scoring:
    turns: tuple[Turn, ...]
    continuations: tuple[str, ...]
    lora: _Lora | None


class _Lora:
    """An adapter's folder, read once, when it is first needed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._loading = threading.Lock()
        self._adapter: Adapter | None = None
        self._removed = False

    def load(self, engine: Engine) -> Adapter:
        with self._loading:
            if self._removed:
                raise BadAdapterError(f"The adapter {self._folder!r} was removed. Give it to `with_adapter` again.")
            if self._adapter is None:
                self._adapter = engine.adapter(self._folder)
            return self._adapter

    def remove(self) -> None:
        with self._loading:
            self._adapter, self._removed = None, True


class _Weights:
    """What the worker thread owns: the tokenizer and the engine, loaded when they are first needed."""

    def __init__(self, path: str, cache_bytes: int) -> None:
        self._path = path
        self._cache_bytes = cache_bytes
        self._loading = threading.Lock()
        self._engine: Engine | None = None

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        folder = Path(self._path)
        if folder.is_dir() and not (folder / "config.json").is_file():
            raise _unavailable(self._path, FileNotFoundError("there is no config.json in it"))
        try:
            return ChatTokenizer(self._path)
        except (OSError, ValueError) as error:
            raise _unavailable(self._path, error) from error

    @property
    def forward_tokens(self) -> int:
        return self._engine.forward_tokens if self._engine else 0

    def load(self) -> Engine:
        with self._loading:
            if self._engine is None:
                from evolvent.agents.models.engine import Engine

                _ = self.tokenizer
                try:
                    self._engine = Engine(self._path, cache_bytes=self._cache_bytes)
                except (OSError, ValueError, RuntimeError, ImportError) as error:
                    raise _unavailable(self._path, error) from error
            return self._engine

    def answer(self, requests: Sequence[_Writing | _Scoring]) -> list[AIMessage | Scores | Exception]:
        return compute(self._answered, requests)

    def _answered(self, requests: Sequence[_Writing | _Scoring]) -> list[AIMessage | Scores | Exception]:
        engine = self.load()
        answers: list[AIMessage | Scores | Exception] = [ValueError("not answered")] * len(requests)
        choices: dict[int, Choice] = {}
        drafts: dict[int, Draft] = {}
        for i, request in enumerate(requests):
            try:
                adapter = request.lora.load(engine) if request.lora is not None else None
                if isinstance(request, _Scoring):
                    choices[i] = self._choice(request, engine.window, adapter)
                else:
                    drafts[i] = self._draft(request, engine.window, adapter)
            except (ValueError, BadAdapterError) as error:
                answers[i] = error
        for (i, choice), logprobs in zip(choices.items(), engine.score(list(choices.values())), strict=True):
            answers[i] = Scores(logprobs, choice.prompt.length + sum(map(len, choice.options)))
        for (i, draft), written in zip(drafts.items(), engine.generate(list(drafts.values())), strict=True):
            request = requests[i]
            assert isinstance(request, _Writing)
            answers[i] = self._message(draft, written, request.stop)
        return answers

    def _choice(self, request: _Scoring, window: int, adapter: Adapter | None) -> Choice:
        from evolvent.agents.models.engine import Choice

        options = tuple(self.tokenizer.encode(text) for text in request.continuations)
        if not options or not all(options):
            raise ValueError(
                f"Continuations {list(request.continuations)!r}; expected one or more, none of them empty."
            )
        prompt = self.tokenizer.prompt(request.turns)
        check_window(prompt, max(map(len, options)), window)
        return Choice(prompt, options, adapter)

    def _draft(self, request: _Writing, window: int, adapter: Adapter | None) -> Draft:
        from evolvent.agents.models.engine import Draft

        prompt = self.tokenizer.prompt(request.turns)
        check_window(prompt, 1, window)
        if request.max_tokens < 1:
            raise ValueError(f"max_tokens is {request.max_tokens}; expected at least 1.")
        # A token may be less than a character, never less than a byte.
        recent = max((len(text.encode()) for text in request.stop), default=0) + 4

        def stops(written: Sequence[int]) -> bool:
            if written[-1] in self.tokenizer.ends:
                return True
            return bool(request.stop) and _cut(self.tokenizer.decode(written[-recent:]), request.stop) is not None

        limit = min(request.max_tokens, window - prompt.length)
        return Draft(prompt, limit, stops, request.temperature, request.seed, adapter)

    def _message(self, draft: Draft, written: list[int], stop: tuple[str, ...]) -> AIMessage:
        ended = written[-1] in self.tokenizer.ends
        text = self.tokenizer.decode(written[:-1] if ended else written)
        cut = _cut(text, stop)
        return AIMessage(
            text[:cut],
            response_metadata={"finish_reason": "length" if cut is None and not ended else "stop"},
            usage_metadata=UsageMetadata(
                input_tokens=draft.prompt.length,
                output_tokens=len(written),
                total_tokens=draft.prompt.length + len(written),
            ),
        )


def _cut(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop text begins."""
    return min((at for at in (text.find(each) for each in stop) if at >= 0), default=None)


def _result(answer: AIMessage | Scores) -> ChatResult:
    assert isinstance(answer, AIMessage)
    return ChatResult(generations=[ChatGeneration(message=answer)])


def _unavailable(path: str, error: Exception) -> ModelUnavailableError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return ModelUnavailableError(f"Cannot load {path!r}: {reason}. Give a folder of Hugging Face weights, or pull one.")
