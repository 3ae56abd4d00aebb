"""`evolvent inspect` as a person types it: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from command_line import Evolvent
from inspected import hand_written

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    hand_written(folder / "first")
    return folder


@contextmanager
def typed(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and the address it told."""
    line = [sys.executable, "-c", "from evolvent.agents.cli import main; main()", "inspect", *map(str, words)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_tells_its_address_answers_there_and_ends_without_complaint(made: Path, how: signal.Signals) -> None:
    with typed(made, "--port", 0) as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert "first" in httpx.get(f"{address}runs", timeout=60).text
        with httpx.stream("GET", f"{address}run/first/changes", timeout=60) as open_page:
            lines = open_page.iter_lines()
            assert next(lines) == "retry: 2000"
            process.send_signal(how)  # somebody is still looking
            out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == "", "nothing but the address is told there"
    assert "Read-only" in err
    assert "Traceback" not in err
    assert "ERROR" not in err


def test_with_a_token_the_address_does_not_tell_it(made: Path) -> None:
    with typed(made, "--port", 0, "--token", TOKEN, "--write") as (_, address):
        assert address.endswith("/?token=…")
        assert TOKEN not in address
        base = address.removesuffix("?token=…")
        assert httpx.get(base, timeout=60).status_code == 401
        assert httpx.get(f"{base}runs", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60).status_code == 200


def test_another_host_without_a_token_is_refused_in_one_line(evolvent: Evolvent, made: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.net"):
        said = evolvent("inspect", made, "--host", host)
        assert said.code == 2
        assert said.out == ""
        assert len(said.err.splitlines()) == 1
        assert f"--host {host} lets other machines in" in said.err
        assert "--token" in said.err


def test_a_token_that_is_short_or_fits_no_address_is_refused(evolvent: Evolvent, made: Path) -> None:
    said = evolvent("inspect", made, "--token", "short")
    assert said.code == 2
    assert "has 5 letters; expected 16" in said.last
    assert "short" not in said.last
    for token in ("a long token with spaces", "ein-schlüssel-der-lang-ist", "line\nbreak-in-the-token"):
        said = evolvent("inspect", made, "--token", token)
        assert said.code == 2
        assert "ASCII" in said.last


def test_a_port_that_is_taken_is_told_with_the_way_out(evolvent: Evolvent, made: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = evolvent("inspect", made, "--port", taken.getsockname()[1])
    assert said.code == 2
    assert "Address already in use" in said.last
    assert "Choose another --port, or 0" in said.last
    assert evolvent("inspect", made, "--port", 65536).code == 2
    assert evolvent("inspect", made, "--port", -1).code == 2


def test_a_directory_without_a_run_is_refused_by_name(evolvent: Evolvent, tmp_path: Path) -> None:
    said = evolvent("inspect", tmp_path)
    assert (said.code, "There is no run in" in said.last) == (2, True)
    assert "evolvent run" in said.last
    for wrong in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").touch()
        said = evolvent("inspect", wrong)
        assert (said.code, "is not a directory" in said.last) == (2, True)
        assert len(said.err.splitlines()) == 1
    assert evolvent("inspect").code == 2


def test_help_names_every_option_and_imports_no_server(made: Path, evolvent: Evolvent) -> None:
    said = evolvent("inspect", "--help")
    assert said.code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.out)
    for told in ("--port", "--host", "--token", "--write", "DIR", "Ctrl-C"):
        assert told in text
    code = (
        "import sys; from evolvent.agents.cli import invoke; invoke(['inspect', '--help']); print(sorted(sys.modules))"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    loaded = modules.stdout.splitlines()[-1]
    for name in ("'starlette'", "'uvicorn'", "'plotly'", "'torch'"):
        assert name not in loaded
