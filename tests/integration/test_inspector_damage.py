"""Runs that were cut off, garbled, locked or made by other versions: every view says what it can, and never breaks."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from inspected import copied, hand_written, served, trained, views
from starlette.testclient import TestClient

from evolvent.agents.inspector.app import application
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.lock import WriterLock
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, new_record

TOLD = "Not everything here could be read"
FILES = ("config.json", "ledger.sqlite", "trace.jsonl", "metrics.jsonl")
TABLES = (
    *("commits", "events", "refs", "head", "episodes", "trajectories", "recalls", "memos", "generations", "vectors"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, str]]:
    """A run in which nothing is wrong, in a folder of two, and the addresses of its views."""
    folder = tmp_path_factory.mktemp("runs")
    hand_written(folder / "hurt", {"a": "To mend rust, use the file.", "b": "To mend a leak, use the clamp."})
    trained(folder / "hurt", "mender")
    copied(folder / "hurt", folder / "sound")
    with closing(sqlite3.connect(folder / "hurt" / "ledger.sqlite")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder, views(folder / "hurt", "hurt")


@pytest.fixture
def hurt(whole: tuple[Path, Mapping[str, str]], tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return copied(whole[0], tmp_path / "runs") / "hurt"


def seen(run: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    """What a reader sees in every view; none of them broke, and the run beside it is shown on the first page."""
    reader = TestClient(application(run.parent), base_url="http://127.0.0.1", raise_server_exceptions=False)
    texts = {}
    for view, address in addresses.items():
        answer = reader.get(address)
        main = answer.text.partition("<main")[2]
        text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", main)).split())
        assert answer.status_code in (200, 404), f"{view} {answer.status_code}: {text[:600]}"
        assert "Traceback" not in text
        texts[view] = text
    assert "/run/sound" in reader.get("/runs").text
    return texts


def change(query: str) -> Callable[[Path], None]:
    def changed(run: Path) -> None:
        with closing(sqlite3.connect(run / "ledger.sqlite")) as db:
            for (guard,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {guard}")  # which let nobody change what was written
            db.execute(query)
            db.commit()

    return changed


def write(file: str, content: bytes | str) -> Callable[[Path], None]:
    def written(run: Path) -> None:
        (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return written


def settings(**changes: object) -> Callable[[Path], None]:
    def changed(run: Path) -> None:
        config = json.loads((run / "config.json").read_text()) | changes
        (run / "config.json").write_text(json.dumps(config))

    return changed


def cut(file: str, share: float) -> Callable[[Path], None]:
    def shortened(run: Path) -> None:
        content = (run / file).read_bytes()
        (run / file).write_bytes(content[: int(len(content) * share)])

    return shortened


def missing(file: str) -> Callable[[Path], None]:
    return lambda run: (run / file).unlink()


def folder_instead(file: str) -> Callable[[Path], None]:
    def replaced(run: Path) -> None:
        (run / file).unlink()
        (run / file).mkdir()

    return replaced


def adapter_file(name: str, content: bytes | None) -> Callable[[Path], None]:
    def changed(run: Path) -> None:
        (file,) = (run / "adapters").glob(f"*@*/{name}")
        file.unlink() if content is None else file.write_bytes(content)

    return changed


def scattered(run: Path) -> None:
    """Every thousandth byte of the ledger is another."""
    content = bytearray((run / "ledger.sqlite").read_bytes())
    for place in range(200, len(content), 997):
        content[place] ^= 0x5A
    (run / "ledger.sqlite").write_bytes(content)


DAMAGE: Mapping[str, Callable[[Path], None]] = {
    **{f"{file} is missing": missing(file) for file in FILES},
    **{f"{file} is empty": write(file, b"") for file in FILES},
    **{f"{file} is cut in half": cut(file, 0.5) for file in FILES},
    **{f"{file} is cut near its end": cut(file, 0.98) for file in FILES},
    **{f"{file} is garbled": write(file, b"\xff\xfe\x00{[<script>\n" * 500) for file in FILES},
    **{f"{file} is a folder": folder_instead(file) for file in FILES},
    **{f"table {table} is gone": change(f"DROP TABLE {table}") for table in TABLES},
    **{f"table {table} is empty": change(f"DELETE FROM {table}") for table in TABLES},
    "ledger.sqlite has other bytes here and there": scattered,
    "ledger of a newer version": change("PRAGMA user_version = 99"),
    "ledger's head is nowhere": change("UPDATE refs SET commit_id = 'nowhere'"),
    "ledger's branch is nowhere": change("UPDATE head SET branch = 'nowhere'"),
    "events are no JSON": change("UPDATE events SET body = '{half'"),
    "events are JSON of another kind": change("UPDATE events SET body = '[]'"),
    "events of no kind": change("UPDATE events SET kind = 'miracle'"),
    "lifts are no numbers": change('UPDATE events SET body = replace(body, \'"mean":0.\', \'"mean":"x","y":0.\')'),
    "generations are no JSON": change("UPDATE generations SET payload = '{half'"),
    "generations are empty": change("UPDATE generations SET payload = '{}'"),
    "generations are null": change("UPDATE generations SET payload = 'null'"),
    "generations' scores are none": change("UPDATE generations SET payload = json_set(payload, '$.scores', null)"),
    "generations' scores are text": change("UPDATE generations SET payload = json_set(payload, '$.scores', 'x')"),
    "generations' costs are none": change("UPDATE generations SET payload = json_remove(payload, '$.cost')"),
    "generations' models are none": change("UPDATE generations SET payload = json_remove(payload, '$.model')"),
    "memos are no JSON": change("UPDATE memos SET text = '{half'"),
    "versions are no JSON": change("INSERT INTO memos VALUES ('versions', '{half', 0)"),
    "bodies are no zlib": change("UPDATE trajectories SET body = x'00ff'"),
    "bodies are cut": change("UPDATE trajectories SET body = substr(body, 1, 40)"),
    "bodies are null text": change("UPDATE trajectories SET body = 'null'"),
    "scores are text": change("UPDATE trajectories SET score = 'much'"),
    "phases are unknown": change("UPDATE episodes SET phase = 'party', generation = -5"),
    "times are none": change("UPDATE commits SET created_at = 'then'"),
    "times are far": change("UPDATE commits SET created_at = 9e18"),
    "episodes ended far off": change("UPDATE episodes SET created_at = 9e18"),
    "recalls are of nothing": change("UPDATE recalls SET record = '', probability = 'x'"),
    "an embedder that is none": change("UPDATE vectors SET embedder = 'oracle'"),
    "vectors are cut": change("UPDATE vectors SET vector = x'00'"),
    "configuration of a newer format": settings(format=99, novelty=[1, 2]),
    "configuration is a list": write("config.json", "[]"),
    "configuration is null": write("config.json", "null"),
    "configuration is half": write("config.json", '{"recipe": "lama'),
    "configuration names no recipe there is": settings(recipe="alchemy"),
    "configuration names no environment there is": settings(environment="moon"),
    "configuration has a setting that is none": settings(settings={"alchemy": 1}),
    "configuration has a preset that is none": settings(preset="huge"),
    "configuration has numbers that are none": settings(tasks="many", seed=-1),
    "trace ends in half a line": lambda run: (run / "trace.jsonl").open("ab").write(b'{"role":"actor","pha') and None,
    "trace is other JSON": write("trace.jsonl", "[]\n1\nnull\n{}\n" * 9),
    "trace has one very long line": write("trace.jsonl", b'{"a":' * 100_000 + b"\n"),
    "metrics end in half a line": lambda run: (run / "metrics.jsonl").open("ab").write(b'{"phase":"tr') and None,
    "metrics are other JSON": write("metrics.jsonl", '[]\n1\n{"phase": 7}\n{"phase": "train", "tokens_in": "x"}\n'),
    "adapter's card is missing": adapter_file("card.json", None),
    "adapter's card is garbled": adapter_file("card.json", b"\xff{half"),
    "adapter's card is another's": adapter_file("card.json", b'{"name": "../x", "hash": "y", "base": "z"}'),
    "adapter's weights are missing": adapter_file("adapter_model.safetensors", None),
    "adapter's weights are others": adapter_file("adapter_model.safetensors", b"\x00" * 99),
    "adapter's loss is half a line": adapter_file("loss.jsonl", b'{"step": 1, "lo'),
    "adapters is a file": lambda run: shutil.rmtree(run / "adapters") or (run / "adapters").touch(),
}
NO_HARM = {
    *(f"{file} is {how}" for file in ("trace.jsonl", "metrics.jsonl") for how in ("empty", "cut near its end")),
    *("trace.jsonl is cut in half", "ledger.sqlite is cut near its end", "metrics end in half a line"),
    *("trace has one very long line", "times are none"),
    *("metrics.jsonl is missing", "config.json is missing", "metrics.jsonl is cut in half", "adapters is a file"),
    *("memos are no JSON", "an embedder that is none", "vectors are cut", "times are far", "episodes ended far off"),
    *(f"table {table} is empty" for table in ("memos", "recalls", "vectors", "generations", "events", "episodes")),
    *("table trajectories is empty", "table commits is empty", "table refs is empty", "recalls are of nothing"),
    *("trace ends in half a line", "events are JSON of another kind", "lifts are no numbers", "phases are unknown"),
    *("adapter's weights are missing", "adapter's weights are others", "table vectors is gone", "table memos is gone"),
    *("configuration names no environment there is", "configuration of a newer format", "scores are text"),
    *("table head is empty", "ledger's branch is nowhere", "ledger's head is nowhere", "times are none"),
    *("events of no kind", "adapter's card is another's", "metrics.jsonl is garbled"),
}
"""Of these a view may well say nothing: what is left can all be read, or it is told in words of its own."""


@pytest.mark.parametrize("what", DAMAGE)
def test_every_view_of_a_damaged_run_shows_what_it_can(
    hurt: Path, whole: tuple[Path, Mapping[str, str]], what: str
) -> None:
    DAMAGE[what](hurt)
    texts = seen(hurt, whole[1])
    if what not in NO_HARM:
        assert any(TOLD in text for text in texts.values()), "no view says what could not be read"


def test_what_is_sound_says_nothing_of_damage(whole: tuple[Path, Mapping[str, str]]) -> None:
    for view, text in seen(whole[0] / "hurt", whole[1]).items():
        assert TOLD not in text, (view, text[:500])


def test_a_run_that_is_being_written_is_shown_with_what_was_not_yet_folded_into_its_file(
    hurt: Path, whole: tuple[Path, Mapping[str, str]]
) -> None:
    lock = WriterLock(hurt / "ledger.lock")
    try:
        texts = seen(hurt, whole[1])
        assert "going on" in texts["runs"]
    finally:
        lock.release()
    with Memory.open(hurt, embedder=HashEmbedder()) as memory:
        note = new_record("note", "Written just now.")
        memory.commit("now", [Event("add", note.id, note)], generation=3)
        assert "Written just now." in seen(hurt, whole[1])["memory"]


def test_a_run_as_kill_leaves_it_is_shown(hurt: Path, whole: tuple[Path, Mapping[str, str]]) -> None:
    """The file and its write-ahead log, copied while a writer has them open."""
    with Memory.open(hurt, embedder=HashEmbedder()) as memory:
        note = new_record("note", "Written just now.")
        memory.commit("now", [Event("add", note.id, note)], generation=3)
        killed = copied(hurt, hurt.parent / "killed")
    shutil.rmtree(hurt)
    os.rename(killed, hurt)
    (hurt / "ledger.sqlite-shm").unlink(missing_ok=True)
    assert "Written just now." in seen(hurt, whole[1])["memory"]


def test_a_run_damaged_and_mended_while_the_server_runs_is_told_and_shown_again(hurt: Path) -> None:
    reader = TestClient(application(hurt.parent), base_url="http://127.0.0.1", raise_server_exceptions=False)
    page = "/run/hurt/memory"
    assert TOLD not in reader.get(page).text
    content = (hurt / "ledger.sqlite").read_bytes()
    (hurt / "ledger.sqlite").unlink()
    (hurt / "ledger.sqlite").write_bytes(b"nonsense" * 999)
    assert TOLD in reader.get(page).text
    (hurt / "ledger.sqlite").unlink()
    (hurt / "ledger.sqlite").write_bytes(content)
    assert TOLD not in reader.get(page).text


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything, so it reads as somebody else meanwhile."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_a_reader_has_no_right_to_read_is_told(whole: tuple[Path, Mapping[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        folder = copied(whole[0], Path(open_to_all) / "runs")
        Path(open_to_all).chmod(0o755)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        closed = copied(folder / "hurt", folder / "closed")
        closed.chmod(0o000)
        for file in FILES:
            (folder / "hurt" / file).chmod(0o000)
        try:
            with nobody():
                texts = seen(folder / "hurt", whole[1])
        finally:
            closed.chmod(0o755)
    assert any("Permission denied" in text or "unable to open" in text for text in texts.values())


def test_no_link_on_any_page_is_dead(whole: tuple[Path, Mapping[str, str]]) -> None:
    """From the first page through every kind of page; a few of each kind."""
    reader = TestClient(application(whole[0], write=True), base_url="http://127.0.0.1", raise_server_exceptions=False)
    waiting, known, kinds = ["/"], {"/"}, dict[str, int]()
    while waiting:
        address = waiting.pop(0)
        answer = reader.get(address)
        if address.endswith("/memory/rule-gone"):  # it stood in a prompt and was forgotten since
            assert answer.status_code == 404
            continue
        assert answer.status_code == 200, (address, answer.status_code, answer.text.partition("<main")[2][:500])
        found = re.findall(r'(?:href|src)="(/[^"#]*)', answer.text)
        if "html" not in answer.headers["content-type"]:
            continue
        assert not re.search(r'(?:href|src|action)="(?!/|#|https://arxiv\.org/)', answer.text), address
        for link in map(html.unescape, found):
            kind = "/".join(part[:9] for part in link.partition("?")[0].split("/")[3:5]) + link.partition("=")[0][-6:]
            if link in known or kinds.get(kind, 0) >= 5:
                continue
            known.add(link)
            kinds[kind] = kinds.get(kind, 0) + 1
            waiting.append(link)
    assert len(known) > 60


def test_the_address_of_a_run_that_is_gone_says_so(hurt: Path, whole: tuple[Path, Mapping[str, str]]) -> None:
    with served(hurt.parent) as base:
        assert base
    reader = TestClient(application(hurt.parent), base_url="http://127.0.0.1", raise_server_exceptions=False)
    assert reader.get("/run/hurt").status_code == 200
    shutil.rmtree(hurt)
    for view, address in whole[1].items():
        if "/run/hurt" in address:
            answer = reader.get(address)
            assert answer.status_code == 404, view
            assert "There is no run" in html.unescape(answer.text)
