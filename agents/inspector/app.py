"""The application: its routes, its files, and what a reader is told when something is not there."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from evolvent.agents.errors import AgentError, RunDirectoryError, UnknownRecipeError
from evolvent.agents.inspector import (
    adapters,
    benchmarks,
    calls,
    changes,
    commits,
    episodes,
    generations,
    lineage,
    live,
    overview,
    ready,
    record,
    records,
    runs,
    systems,
)
from evolvent.agents.inspector.library import Library
from evolvent.agents.inspector.respond import page
from evolvent.agents.inspector.security import Guard
from evolvent.memory.errors import LedgerLockedError, MemoryStoreError, UnknownCommitError, UnknownRecordError

_STATIC = Path(__file__).parent / "static"


def application(root: Path, *, write: bool = False, host: str = "127.0.0.1", token: str = "") -> ASGIApp:
    """The inspector of all runs under `root`, to be served by any ASGI server.

    Args:
        write: records may be retired and restored, commits reverted.
        host: the name it is served under.
        token: asked of every request; needed where `host` is not the loopback.

    Raises:
        SetupError: there is no run under `root`.
    """
    library = Library(root)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(ready.read_largest, library)
        yield
        library.close()

    app = Starlette(
        routes=[
            *runs.routes,
            *overview.routes,
            *benchmarks.routes,
            *generations.routes,
            *commits.routes,
            *adapters.routes,
            *systems.routes,
            *episodes.routes,
            *calls.routes,
            *records.routes,
            *changes.routes,
            *record.routes,
            *lineage.routes,
            *live.routes,
            Route("/static/plotly.js", _plotly),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(GZipMiddleware, minimum_size=2000, compresslevel=1)],
        exception_handlers={
            HTTPException: _refused,
            AgentError: _not_there,
            MemoryStoreError: _not_there,
            Exception: _broken,
        },
        lifespan=lifespan,
    )
    app.state.library, app.state.write, app.state.csrf = library, write, secrets.token_urlsafe(32)
    app.state.ending = threading.Event()
    return Guard(app, host=host, token=token, ending=app.state.ending)


def _plotly(request: Request) -> Response:
    """As it lies in plotly's wheel; it may be kept, since its address changes with nothing else than its version."""
    file = files("plotly").joinpath("package_data/plotly.min.js")
    return FileResponse(str(file), media_type="text/javascript", headers={"cache-control": "max-age=3600"})


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    missing = error.status_code == 404
    told = f"There is no page at {request.url.path}." if missing else error.detail
    return page(request, "error.html", status=error.status_code, told=told)


def _not_there(request: Request, error: Exception) -> Response:
    """What the project's own errors say already says what to do next."""
    absent = isinstance(error, UnknownRecordError | UnknownCommitError | UnknownRecipeError | RunDirectoryError)
    status = 404 if absent else 409 if isinstance(error, LedgerLockedError) else 400
    return page(request, "error.html", status=status, told=str(error))


def _broken(request: Request, error: Exception) -> Response:
    told = f"This page could not be made: {type(error).__name__}: {error}. The run is unharmed."
    return page(request, "error.html", status=500, told=told)
