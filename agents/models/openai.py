"""Any endpoint that speaks OpenAI's protocol, and which failures of a call are worth another try.

The protocol is spoken here, in a page: the official client spends more time on a call than a whole step of an episode.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr

from evolvent.agents.errors import AgentError, ModelUnavailableError

_OPENAI = "https://api.openai.com/v1"


class GarbledAnswerError(AgentError, RuntimeError):
    """A server answered with something that is no chat completion."""


class EndpointChatModel(BaseChatModel):
    """A chat model behind an endpoint; its key comes from OPENAI_API_KEY. It never retries: its caller counts tries.

    Text in, text out; for tools and images hand in a chat model of your own. Connections are kept from call to call
    and belong to an event loop: `hang_up` closes them when the loop's work ends.

    Raises:
        ModelUnavailableError: OpenAI's own endpoint is asked without a key.
        GarbledAnswerError, httpx.HTTPError: from a call; `is_transient` tells them apart.
    """

    model: str
    base_url: str | None = None
    """Ends in `/v1`; None is OpenAI's own."""
    timeout_s: float = Field(default=60, gt=0)
    """Of waiting for the next byte."""

    _free: WeakKeyDictionary[asyncio.AbstractEventLoop, list[httpx.AsyncClient]] = PrivateAttr(
        default_factory=WeakKeyDictionary
    )
    """Clients that no call is using."""

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if self.base_url is None and not os.environ.get("OPENAI_API_KEY"):
            raise ModelUnavailableError(
                f"openai:{self.model} needs a key in OPENAI_API_KEY, or an endpoint of your own: "
                f"openai:{self.model}@http://HOST/v1"
            )

    async def hang_up(self) -> None:
        """Close this event loop's connections; the next call opens new ones."""
        for client in self._free.pop(asyncio.get_running_loop(), []):
            await client.aclose()

    @property
    def _llm_type(self) -> str:
        return "evolvent-endpoint"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with httpx.Client(**self._settings()) as client:
            return _read(client.post(self._address, content=self._request(messages, stop, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        async with self._line() as client:
            return _read(await client.post(self._address, content=self._request(messages, stop, kwargs)))

    @asynccontextmanager
    async def _line(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of one connection for one call: a pool of many would compare each with each at every call."""
        free = self._free.setdefault(asyncio.get_running_loop(), [])
        client = free.pop() if free else httpx.AsyncClient(**self._settings())
        try:
            yield client
        finally:
            free.append(client)

    def _settings(self) -> dict[str, Any]:
        return {
            "headers": {"Authorization": f"Bearer {key()}", "Content-Type": "application/json"},
            "timeout": httpx.Timeout(self.timeout_s, connect=min(self.timeout_s, 10)),
            "verify": _certificates(),
        }

    @property
    def _address(self) -> str:
        return f"{(self.base_url or _OPENAI).rstrip('/')}/chat/completions"

    def _request(self, messages: Sequence[BaseMessage], stop: list[str] | None, settings: dict[str, Any]) -> bytes:
        given = {"stop": stop, **settings}
        if self.base_url is None and "max_tokens" in given:  # OpenAI renamed it; most other servers did not
            given["max_completion_tokens"] = given.pop("max_tokens")
        body = {"model": self.model, "messages": convert_to_openai_messages(list(messages))}
        return json.dumps(body | {name: value for name, value in given.items() if value is not None}).encode()


def _read(response: httpx.Response) -> ChatResult:
    """The first choice of an answer."""
    if not response.is_success:
        raise httpx.HTTPStatusError(
            f"HTTP {response.status_code}: {response.text[:200]}", request=response.request, response=response
        )
    try:
        answer = response.json()
        choice = answer["choices"][0]
        text, usage = choice["message"]["content"], answer.get("usage") or {}
        if text is not None and not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}, not text")
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise GarbledAnswerError(f"The endpoint's answer is no chat completion: {error!r}"[:300]) from error
    tokens: UsageMetadata | None = None
    if isinstance(read, int) and isinstance(written, int):
        tokens = UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
    message = AIMessage(
        text or "", usage_metadata=tokens, response_metadata={"finish_reason": choice.get("finish_reason")}
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: that takes longer than many calls."""
    return httpx.create_ssl_context()


def key() -> str:
    """Of the endpoint; a server that needs none still gets a header."""
    return os.environ.get("OPENAI_API_KEY") or "none"


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: the network, an overloaded or failing server, a garbled answer.

    False for what will fail again: a wrong key, an unknown model, a prompt over the window, a fault of ours.
    """
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", getattr(response, "status_code", None))
    if isinstance(status, int) and status >= 400:
        return status in {408, 409, 425, 429} or status >= 500
    # By name: a chat model of the user's own may be made with the official client, which need not be there.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"APIConnectionError", "APITimeoutError", "APIResponseValidationError"}:
        return True
    network = (TimeoutError, ConnectionError, httpx.TransportError, httpx.DecodingError)
    return isinstance(error, (*network, GarbledAnswerError))
