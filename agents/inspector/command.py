"""`evolvent inspect`: serves the page."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evolvent.agents.errors import SetupError
from evolvent.agents.terminal import note

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory, or one that holds runs.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8321,
    host: Annotated[str, typer.Option("--host", help="Any but the loopback needs a --token.")] = "127.0.0.1",
    token: Annotated[
        str, typer.Option("--token", metavar="TEXT", help="Asked of every reader; 16 letters or more.")
    ] = "",
    write: Annotated[bool, typer.Option("--write", help="Let readers retire, restore and revert.")] = False,
) -> None:
    """Look at runs in a browser: what was tried, learned and proved. Live while a run is going; Ctrl-C ends it."""
    from evolvent.agents.inspector.security import LOOPBACK, TOKEN_LETTERS

    if not (token.isascii() and token.isprintable() and " " not in token):
        raise SetupError(f"--token {token!r} goes into an address; expected letters, digits and signs of ASCII alone.")
    if token and len(token) < TOKEN_LETTERS:
        raise SetupError(f"--token has {len(token)} letters; expected {TOKEN_LETTERS} or more that nobody guesses.")
    if host not in LOOPBACK and not token:
        raise SetupError(
            f"--host {host} lets other machines in; expected a --token of {TOKEN_LETTERS} letters or more beside it. "
            "Without --host the page is for this machine only."
        )
    app = _application(directory, write=write, host=host, token=token)
    from evolvent.agents.inspector.serving import Server

    listening = _listening(host, port)
    bound = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{bound}/" + ("?token=…" if token else ""), flush=True)
    note("Ctrl-C ends it." if write else "Read-only; with --write records can be retired and commits reverted.")
    with suppress(KeyboardInterrupt):  # which uvicorn, done with its own work, raises again
        Server(app).run([listening])


def _application(directory: Path, *, write: bool, host: str, token: str) -> ASGIApp:
    try:
        from evolvent.agents.inspector.app import application
    except ModuleNotFoundError as error:
        raise SetupError(
            f"The inspector needs {error.name}, which is not installed: pip install 'evolvent[inspect]'."
        ) from error
    return application(directory, write=write, host=host, token=token)


def _listening(host: str, port: int) -> socket.socket:
    """
    Raises:
        SetupError: the port is taken, or the host is not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # whoever opens the address that is told waits, and is not turned away
    except OSError as error:
        listening.close()
        raise SetupError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port, or 0.") from error
    return listening
