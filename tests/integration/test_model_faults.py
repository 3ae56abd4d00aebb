"""A real server on this machine that answers badly in every way: an error that is classified, or text; never a hang."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from evolvent.agents.models.openai import EndpointChatModel, is_transient
from evolvent.agents.models.protocol import Scorer

TIMEOUT_S = 0.5
Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


def completion(text: str) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    ).encode()


def http(body: bytes, *, status: str = "200 OK", length: int | None = None, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length or len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def sends(answer: bytes) -> Handler:
    async def handler(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return handler


async def hangs(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(10 * TIMEOUT_S)


async def closes(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    servers: list[asyncio.Server] = []
    calls: set[asyncio.Task[None]] = set()

    async def start(handler: Handler) -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            calls.add(task)
            try:
                await reader.readuntil(b"\r\n\r\n")
                await handler(writer)
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    yield start
    for server in servers:
        server.close()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def ask(url: str) -> str:
    model = EndpointChatModel(model="m", base_url=url, timeout_s=TIMEOUT_S)
    message = await model.ainvoke([HumanMessage("Hello.")], temperature=0, max_tokens=8, stop=["\n"], seed=1)
    assert isinstance(message, AIMessage)
    return str(message.text)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(sends(http(b"<html>garbage</html>", kind="text/html")), id="garbage"),
        pytest.param(sends(http(b"%$&!")), id="garbage called JSON"),
        pytest.param(sends(http(b"")), id="nothing"),
        pytest.param(sends(http(b"{}")), id="an empty object"),
        pytest.param(sends(http(b"null")), id="null"),
        pytest.param(sends(http(completion("Hello.")[:40])), id="half the JSON"),
        pytest.param(sends(http(completion("Hello.")[:40], length=400)), id="half the body"),
        pytest.param(sends(http(completion("HERE").replace(b"HERE", b"\xff\xfe\xc3"))), id="malformed UTF-8"),
        pytest.param(sends(http(b'{"error": {"message": "boom"}}', status="500 Internal Server Error")), id="HTTP 500"),
        pytest.param(sends(http(b"slow down", status="429 Too Many Requests", kind="text/plain")), id="HTTP 429"),
        pytest.param(hangs, id="a time-out"),
        pytest.param(closes, id="a closed connection"),
        pytest.param(sends(b"not HTTP at all\r\n\r\n"), id="not HTTP"),
    ],
)
async def test_a_passing_fault_is_worth_another_try(
    serve: Callable[[Handler], Awaitable[str]], handler: Handler
) -> None:
    url = await serve(handler)
    started = time.monotonic()
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever is raised is what is_transient is asked about
        await ask(url)
    assert is_transient(caught.value), repr(caught.value)
    assert time.monotonic() - started < 4 * TIMEOUT_S


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found"])
async def test_what_will_fail_again_is_not_worth_another_try(
    serve: Callable[[Handler], Awaitable[str]], status: str
) -> None:
    url = await serve(sends(http(b'{"error": {"message": "no"}}', status=status)))
    with pytest.raises(Exception) as caught:  # noqa: PT011  as above
        await ask(url)
    assert not is_transient(caught.value), repr(caught.value)


@pytest.mark.parametrize("text", ["", "Hello.", "word " * 10_000])
async def test_any_text_is_returned_as_it_came(serve: Callable[[Handler], Awaitable[str]], text: str) -> None:
    assert await ask(await serve(sends(http(completion(text))))) == text


async def test_a_server_that_is_not_there_is_worth_another_try(serve: Callable[[Handler], Awaitable[str]]) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()
    await server.wait_closed()
    with pytest.raises(Exception) as caught:  # noqa: PT011  as above
        await ask(url)
    assert is_transient(caught.value), repr(caught.value)


def test_an_endpoint_is_no_scorer() -> None:
    # langchain-openai's own models have a field called `logprobs`.
    assert not isinstance(EndpointChatModel(model="m", base_url="http://127.0.0.1:1/v1"), Scorer)
