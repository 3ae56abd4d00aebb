"""Any endpoint that speaks OpenAI's protocol, and which failures of a call are worth another try."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import Field, PrivateAttr, SecretStr

from evolvent.agents.errors import AgentError, ModelUnavailableError


class GarbledAnswerError(AgentError, RuntimeError):
    """A server answered with something that is no chat completion."""


class EndpointChatModel(BaseChatModel):
    """A chat model behind an endpoint; its key comes from OPENAI_API_KEY. It never retries: its caller counts tries.

    Connections are kept from call to call and belong to an event loop; `hang_up` closes them when the loop's work ends.

    Raises:
        ModelUnavailableError: langchain-openai is not installed, or OpenAI's own endpoint is asked without a key.
        GarbledAnswerError: from a call whose answer cannot be read.
    """

    model: str
    base_url: str | None = None
    """Ends in `/v1`; None is OpenAI's own."""
    timeout_s: float = Field(default=60, gt=0)
    """Of waiting for the next byte."""

    _inner: BaseChatModel = PrivateAttr()
    """For calls outside an event loop."""
    _lines: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, BaseChatModel]] = PrivateAttr(
        default_factory=WeakKeyDictionary
    )

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        try:
            import langchain_openai  # noqa: F401
        except ImportError as error:
            raise ModelUnavailableError(
                f"{self.model} at an endpoint needs langchain-openai. Install it: pip install 'evolvent[openai]'"
            ) from error
        if self.base_url is None and not os.environ.get("OPENAI_API_KEY"):
            raise ModelUnavailableError(
                f"openai:{self.model} needs a key in OPENAI_API_KEY, or an endpoint of your own: "
                f"openai:{self.model}@http://HOST/v1"
            )
        self._inner = self._speaking(None)

    async def hang_up(self) -> None:
        """Close this event loop's connections; the next call opens new ones."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None:
            await line[0].aclose()

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
        with _reading():
            return self._inner._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with _reading():
            return await self._line()[1]._agenerate(messages, stop, run_manager, **kwargs)

    def _line(self) -> tuple[httpx.AsyncClient, BaseChatModel]:
        """This event loop's client, and the model that speaks through it."""
        loop = asyncio.get_running_loop()
        if loop not in self._lines:
            # As many connections as there are episodes at once: that bound is the caller's.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            client = httpx.AsyncClient(timeout=self._timeout, limits=limits)
            self._lines[loop] = client, self._speaking(client)
        return self._lines[loop]

    @property
    def _timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.timeout_s, connect=min(self.timeout_s, 10))

    def _speaking(self, client: httpx.AsyncClient | None) -> BaseChatModel:
        from langchain_openai import ChatOpenAI
        from langchain_openai.chat_models.base import BaseChatOpenAI

        # Servers other than OpenAI's know `max_tokens`, which ChatOpenAI no longer sends.
        kind = ChatOpenAI if self.base_url is None else BaseChatOpenAI
        return kind(
            model=self.model,
            base_url=self.base_url,
            api_key=SecretStr(key()),
            max_retries=0,
            timeout=self._timeout,
            http_async_client=client,
        )


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
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: openai's package need not be there
    if kinds & {"APIConnectionError", "APITimeoutError", "APIResponseValidationError"}:
        return True
    network = (TimeoutError, ConnectionError, httpx.TransportError, httpx.DecodingError)
    return isinstance(error, (*network, GarbledAnswerError))


@contextmanager
def _reading() -> Iterator[None]:
    """What stumbles over the shape of an answer does so with whatever exception comes first."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise GarbledAnswerError(f"The endpoint's answer is no chat completion: {error}"[:300]) from error
