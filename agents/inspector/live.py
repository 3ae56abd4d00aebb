"""A page that is open while its run goes on hears that something was written, and asks for itself again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from evolvent.agents.inspector.respond import look

_EVERY_S = 0.5
_BEATS = 30
"""Turns without news after which a line is sent all the same, so that a closed page is noticed."""


async def changes(request: Request) -> StreamingResponse:
    """Server-sent events: `changed` whenever a file of the run was written, at most one in half a second."""
    run = look(request).run

    async def told() -> AsyncIterator[str]:
        known, quiet = run.stamp(), 0
        yield "retry: 2000\n\n"
        while not (request.app.state.ending.is_set() or await request.is_disconnected()):
            await asyncio.sleep(_EVERY_S)
            now = run.stamp()
            quiet = 0 if now != known else quiet + 1
            if now != known:
                yield "event: changed\ndata: 1\n\n"
            elif quiet % _BEATS == 0:
                yield ": still here\n\n"
            known = now

    return StreamingResponse(told(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


routes = [Route("/run/{run}/changes", changes)]
