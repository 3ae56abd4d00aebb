"""vLLM without a server: its engine in a child process of this one, and a chat model over it.

Prompts are tokenised here, as the embedded model tokenises them; batching, prefix caching and adapters are vLLM's.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import itertools
import os
import threading
import weakref
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr

from evolvent.agents.errors import BadAdapterError, ModelUnavailableError
from evolvent.agents.models.protocol import Scores
from evolvent.agents.models.tokens import ChatTokenizer, Prompt, check_window, turns_of
from evolvent.agents.models.vllm import adapter_name, refusal

_SETTINGS = {
    "enable_prefix_caching": True,
    "enable_lora": True,
    "max_loras": 4,  # adapters in one batch; more wait their turn
    "max_lora_rank": 64,
    "disable_log_stats": True,
}
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # a run reports to nobody
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is the command's
}
"""What vLLM reads when it is imported, where the user says nothing else."""
_serials = itertools.count(1)
_T = TypeVar("_T")


class VllmEngineModel(BaseChatModel):
    """A chat model and a `Scorer` over a folder of Hugging Face weights, run by vLLM on this machine.

    Calls from any number of event loops and threads are answered together, and what prompts share is computed once,
    except that a scored prompt is computed whole. The engine is started by `load` or the first call and ends with
    `close`, with the last model that shares it, or with this process.

    A call may give `temperature` (0, the default, is greedy), `max_tokens`, `stop` and `seed`. The same call gives the
    same reply, unless two tokens are so near that the rounding of another batch decides.

    Raises:
        ModelUnavailableError: vLLM is not installed.
    """

    path: str
    """A folder, or a hub id where a hub can be reached."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Of vLLM's engine, by its own names (`tensor_parallel_size`, `max_model_len`, …); they go before ours. Without a
    `dtype` it is float32 on a CPU and vLLM's choice elsewhere."""
    max_tokens: int = Field(default=256, ge=1)
    """Written at most, when a call does not say."""
    seed: int = 0
    """Of sampling, when a call does not say."""
    adapter: str | None = None
    """A folder with a LoRA adapter in PEFT's format, read by `load` or the first call; None serves the base."""

    _engine: _Engine = PrivateAttr()
    _lora: _Lora | None = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if importlib.util.find_spec("vllm") is None:
            raise ModelUnavailableError(
                f"vllm:{self.path} needs vLLM here: pip install 'evolvent[vllm]'. Or name a server that has it: "
                f"vllm:{self.path}@http://localhost:8000/v1"
            )
        self._engine = _Engine(self.path, self.arguments)
        self._lora = _Lora(self.adapter) if self.adapter is not None else None

    @property
    def _llm_type(self) -> str:
        return "evolvent-vllm-engine"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"path": self.path, "adapter": self.adapter, "seed": self.seed, "max_tokens": self.max_tokens}

    def load(self) -> None:
        """Start the engine now, and load the adapter.

        Raises:
            ModelUnavailableError: the weights are not there, or vLLM cannot run them here.
            BadAdapterError: vLLM refuses the adapter.
        """
        self._engine.submit(self._engine.ready(self._lora)).result()

    def close(self) -> None:
        """End the engine and free its memory, for every model that shares it; later calls fail."""
        self._engine.close()

    def with_adapter(self, folder: str | Path) -> VllmEngineModel:
        """This model's base with the adapter in `folder` on top, loaded now; both share one engine and its batches.

        vLLM may read the folder again when many adapters take turns: leave it as it is while it is served. An adapter
        of a smaller base it takes without a word; `verify` finds that out.

        Raises:
            BadAdapterError: vLLM refuses the adapter.
        """
        view = self.model_copy(update={"adapter": str(folder)})
        view._lora = _Lora(str(folder))
        view.load()
        return view

    def remove_adapter(self) -> None:
        """Free the adapter's weights; later calls of this model fail."""
        if self._lora is not None:
            self._engine.submit(self._engine.remove(self._lora)).result()

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        return await asyncio.wrap_future(self._engine.submit(self._score(messages, continuations)))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._engine.submit(self._write(messages, stop, **kwargs)).result()

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await asyncio.wrap_future(self._engine.submit(self._write(messages, stop, **kwargs)))

    async def _write(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        *,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatResult:
        engine = self._engine
        await engine.ready()
        prompt = engine.tokenizer.prompt(turns_of(messages))
        check_window(prompt, 1, engine.window)
        limit = self.max_tokens if max_tokens is None else max_tokens
        if limit < 1:
            raise ValueError(f"max_tokens is {limit}; expected at least 1.")
        answer = await engine.run(
            _tokens(prompt),
            self._lora,
            temperature=temperature,
            max_tokens=min(limit, engine.window - prompt.length),
            seed=self.seed if seed is None else seed,
            stop=stop or None,
            stop_token_ids=sorted(engine.tokenizer.ends),
        )
        written = answer.outputs[0]
        message = AIMessage(
            written.text,
            response_metadata={"finish_reason": written.finish_reason},
            usage_metadata=UsageMetadata(
                input_tokens=prompt.length,
                output_tokens=len(written.token_ids),
                total_tokens=prompt.length + len(written.token_ids),
            ),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _score(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        engine = self._engine
        await engine.ready()
        options = [engine.tokenizer.encode(text) for text in continuations]
        if not options or not all(options):
            raise ValueError(f"Continuations {list(continuations)!r}; expected one or more, none of them empty.")
        prompt = engine.tokenizer.prompt(turns_of(messages))
        # One more than is scored: vLLM answers no prompt without writing a token.
        check_window(prompt, max(map(len, options)) + 1, engine.window)
        head = _tokens(prompt)
        answers = await asyncio.gather(
            *(
                engine.run([*head, *option], self._lora, temperature=0, max_tokens=1, prompt_logprobs=0)
                for option in options
            )
        )
        logprobs = tuple(
            tuple(
                float(place[token].logprob)
                for token, place in zip(option, answer.prompt_logprobs[len(head) :], strict=True)
            )
            for option, answer in zip(options, answers, strict=True)
        )
        return Scores(logprobs, len(head) + sum(map(len, options)))


class _Lora:
    """An adapter's folder, handed to the engine once, when it is first needed."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.request: Any = None
        """vLLM's own of it; None until it is loaded."""
        self.removed = False


class _Engine:
    """vLLM's engine and the thread with the event loop that it belongs to. Its coroutines run in that loop alone."""

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        self._path = path
        self._settings = settings
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: weakref.finalize[Any, Any] | None = None
        self._loading = asyncio.Lock()
        self._llms: list[Any] = []
        """At most one; shared with what ends it, which must not hold this object."""

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._loop.run_forever, name="evolvent-vllm", daemon=True)
                thread.start()
                self._end = weakref.finalize(self, _end, self._loop, thread, self._llms)
            elif self._end is not None and not self._end.alive:
                work.close()
                raise ModelUnavailableError(f"The engine of {self._path!r} was closed. Make the model again.")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        with self._starting:
            if self._end is not None:
                self._end()

    async def ready(self, lora: _Lora | None = None) -> Any:
        """vLLM's engine, started; and the adapter loaded."""
        async with self._loading:
            if not self._llms:
                self._start()
            if lora is not None and lora.request is None:
                await self._load(lora)
        return self._llms[0]

    async def run(self, tokens: list[int], lora: _Lora | None, **sampling: Any) -> Any:
        """vLLM's final answer to one prompt."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        llm = await self.ready(lora)
        params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **sampling)
        request = lora.request if lora is not None else None
        answers = llm.generate(tokens_input(tokens), params, str(next(_serials)), lora_request=request)
        return [answer async for answer in answers][-1]

    async def remove(self, lora: _Lora) -> None:
        async with self._loading:
            if lora.request is not None:
                await self._llms[0].remove_lora(lora.request.lora_int_id)
            lora.request, lora.removed = None, True

    def _start(self) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import AsyncEngineArgs, AsyncLLMEngine
        from vllm.platforms import current_platform

        try:
            self.tokenizer = ChatTokenizer(self._path)
            device = _settings_of_a_cpu(self._path) if current_platform.is_cpu() else {}
            arguments = AsyncEngineArgs(**{"model": self._path, **_SETTINGS, **device, **self._settings})
            # In no local variable: vLLM keeps this frame, and with it the engine, until the interpreter is half gone.
            self._llms.append(AsyncLLMEngine.from_engine_args(arguments))
        except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ModelUnavailableError(
                f"vLLM cannot run {self._path!r}: {reason}. Give a folder of Hugging Face weights and settings that "
                "this machine has the memory for; what the engine said stands above."
            ) from error
        self.window: int = self._llms[0].model_config.max_model_len
        assert self._end is not None
        atexit.register(self._end)  # now, to come before multiprocessing's own, which would kill the engine under us

    async def _load(self, lora: _Lora) -> None:
        from vllm.lora.request import LoRARequest

        if lora.removed:
            raise BadAdapterError(f"The adapter {lora.folder!r} was removed. Give it to `with_adapter` again.")
        folder = Path(lora.folder).absolute()
        # vLLM's cache of prompts tells adapters apart by name and path: the name has to tell their content.
        request = LoRARequest(adapter_name(folder), next(_serials), str(folder))
        try:
            await self._llms[0].add_lora(request)
        except Exception as error:  # what fails in the engine's process comes as no narrower kind
            raise refusal(lora.folder, str(error)) from error
        lora.request = request


def _settings_of_a_cpu(path: str) -> dict[str, Any]:
    """What the embedded engine computes in; and LoRA for every linear layer but the head.

    Where the head may have LoRA too, vLLM 0.32 on a CPU takes seconds to score one prompt and dies of two at once.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(AutoConfig.from_pretrained(path))
    head = model.get_output_embeddings()
    linear = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and layer is not head]
    return {"dtype": "float32", "lora_target_modules": sorted({name.rpartition(".")[2] for name in linear})}


def _tokens(prompt: Prompt) -> list[int]:
    return [*itertools.chain(*prompt.chunks), *prompt.header]


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, llms: list[Any]) -> None:
    async def wind_up() -> None:
        while llms:
            llms.pop().shutdown()
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        loop.stop()

    asyncio.run_coroutine_threadsafe(wind_up(), loop)
    if thread is not threading.current_thread():  # the last model may be dropped in the loop's own thread
        thread.join()
        loop.close()
