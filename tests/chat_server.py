"""A real server on this machine that speaks OpenAI's protocol, as well or as badly as a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Answer = Callable[[int, str], Awaitable[bytes]]
"""From the number of the call (from 1) and its last message to what is sent back; nothing is a closed connection."""


def http(body: bytes, *, status: str = "200 OK", length: int | None = None, kind: str = "application/json") -> bytes:
    """`length` is what the head claims, where it lies."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length or len(body)}\r\n"
    return f"{head}{'Connection: close' if length else 'Connection: keep-alive'}\r\n\r\n".encode() + body


def completion(text: str) -> bytes:
    """The body of a sound answer; a lone surrogate in `text` becomes an escape, which is sound JSON."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(whole).encode()


def says(text: str) -> bytes:
    return http(completion(text))


def first_option(message: str) -> bytes:
    """A sound answer to a request for one of several actions."""
    return says(message.rpartition("Answer with one of: ")[2].split(" | ")[0][:80])


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """The address of a server that lives as long as the block."""
    calls = 0
    open_connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        task = asyncio.current_task()
        assert task is not None
        open_connections.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                request = json.loads(await reader.readexactly(length))
                calls += 1
                sent = await answer(calls, str(request["messages"][-1]["content"]))
                writer.write(sent)
                await writer.drain()
                if b"keep-alive" not in sent[:200]:
                    break
        writer.close()
        open_connections.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=256)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in list(open_connections):
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)
