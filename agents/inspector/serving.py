"""The server under the page, which ends as soon as it is asked to, whoever is still looking."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from evolvent.agents.inspector.security import Guard


class Server(uvicorn.Server):
    """Of one application; its log goes to stderr and tells only what went wrong."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Pages that wait for news would hold it until they were cut off, with a complaint for each."""
        app = self.config.app
        if isinstance(app, Guard):
            app.ending.set()
        await super().shutdown(sockets)
