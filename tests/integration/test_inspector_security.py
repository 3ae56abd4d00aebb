"""Who is let in, who may change something, and what is never served: the inspector against strangers."""

from __future__ import annotations

import hmac
import http.client
import os
import re
import shutil
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from inspected import copied, hand_written, served
from starlette.requests import Request
from starlette.testclient import TestClient

from evolvent.agents.errors import SetupError
from evolvent.agents.inspector import live
from evolvent.agents.inspector.app import application
from evolvent.agents.inspector.library import Library
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory

TOKEN = "correct-horse-battery"
OURS = "http://127.0.0.1"
HEADERS = (
    *("content-security-policy", "x-content-type-options", "referrer-policy"),
    *("cross-origin-opener-policy", "cross-origin-resource-policy", "cache-control"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run in it. Only to be read."""
    folder = tmp_path_factory.mktemp("runs")
    hand_written(folder / "first")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return copied(made, tmp_path / "runs")


def client(root: Path, base: str = OURS, **settings: Any) -> TestClient:
    return TestClient(application(root, **settings), base_url=base, raise_server_exceptions=False)


def secret(reader: TestClient, page: str) -> str:
    """What the form on a page carries."""
    found = re.search(r'name="csrf" value="([^"]+)"', reader.get(page).text)
    assert found, page
    return found[1]


def rule_of(run: Path) -> str:
    with Memory.open(run, embedder=HashEmbedder(), read_only=True) as memory:
        return next(each.id for each in memory.records().values() if each.kind == "rule" and each.status == "active")


def status(run: Path, record: str) -> str:
    with Memory.open(run, embedder=HashEmbedder(), read_only=True) as memory:
        return memory.records()[record].status


# -- who is let in -------------------------------------------------------------------------------------------------


def test_a_server_on_the_loopback_answers_to_its_names_and_to_no_other(made: Path) -> None:
    """Or a page whose name was pointed at 127.0.0.1 could read it."""
    reader = client(made)
    for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[", "", "0.0.0.0"):
        answer = reader.get("/runs", headers={"host": name})
        assert answer.status_code == 421, name
        assert "first" not in answer.text
    for name in ("127.0.0.1:8321", "localhost:8321", "[::1]:8321", "LOCALHOST"):
        assert reader.get("/runs", headers={"host": name}).status_code == 200, name


def test_without_a_token_another_host_is_not_answered_either(made: Path) -> None:
    assert client(made, host="192.0.2.7").get("/runs", headers={"host": "192.0.2.7"}).status_code == 421


def test_a_token_in_the_address_becomes_a_cookie_and_leaves_the_address(made: Path) -> None:
    reader = client(made, "http://example.net", host="0.0.0.0", token=TOKEN)
    assert reader.get("/runs").status_code == 401
    first = reader.get(f"/runs?q=a%26b&token={TOKEN}", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/runs?q=a%26b")
    assert "httponly" in first.headers["set-cookie"].lower()
    assert "samesite=strict" in first.headers["set-cookie"].lower()
    assert reader.get("/runs").status_code == 200
    reader.cookies.clear()
    assert reader.get("/runs").status_code == 401


@pytest.mark.parametrize("token", [TOKEN, 'a%20;b="c,d\\e&f#g=h', "Zm9vYmFyYmF6cXV4==", "<script>alert(1)"])
def test_any_sign_may_stand_in_a_token(made: Path, token: str) -> None:
    reader = client(made, host="0.0.0.0", token=token)
    assert reader.get(f"/?token={quote(token, safe='')}").status_code == 200
    assert reader.get("/runs").status_code == 200, "by the cookie"
    bare = client(made, host="0.0.0.0", token=token)
    assert bare.get("/runs", headers={"authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        {"params": {"token": TOKEN[:-1]}},
        {"params": {"token": ""}},
        {"params": {"token": TOKEN.upper()}},
        {"headers": {"authorization": "Bearer no"}},
        {"headers": {"authorization": f"Basic {TOKEN}"}},
        {"headers": {"cookie": "evolvent_token=no"}},
        {"headers": {"cookie": "bad/key=1; =; ;;;evolvent_token"}},
        {"headers": {"authorization": "Bearer \xff\xfe".encode("latin-1")}},
    ],
)
def test_a_wrong_token_lets_nobody_in(made: Path, given: dict[str, Any]) -> None:
    reader = client(made, host="0.0.0.0", token=TOKEN)
    for page in ("/", "/runs", "/run/first", "/static/inspector.css", "/run/first/changes", "/nothing"):
        answer = reader.get(page, **given)
        assert answer.status_code == 401, page
        assert TOKEN not in answer.text


def test_a_cookie_of_another_program_on_this_machine_stops_nobody(made: Path) -> None:
    """Cookies know no ports: what another local server set comes along."""
    reader = client(made, host="0.0.0.0", token=TOKEN)
    headers = {"cookie": f'bad/key=1; odd="a; evolvent_token={TOKEN}'}
    assert reader.get("/runs", headers=headers).status_code == 200


def test_a_token_is_compared_in_constant_time(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    compare = hmac.compare_digest

    def compared(given: bytes, known: bytes) -> bool:
        seen.append(given)
        return compare(given, known)

    monkeypatch.setattr("evolvent.agents.inspector.security.hmac.compare_digest", compared)
    client(made, host="0.0.0.0", token=TOKEN).get("/runs?token=guess", headers={"cookie": "evolvent_token=second"})
    assert {b"guess", b"second"} <= set(seen)


@pytest.mark.parametrize("path", ["//evil.example/x", "///evil.example", "/%2Fevil.example"])
def test_a_token_leads_to_no_other_site(made: Path, path: str) -> None:
    reader = client(made, host="0.0.0.0", token=TOKEN)
    answer = reader.get(f"{OURS}{path}?token={TOKEN}", follow_redirects=False)
    assert answer.status_code == 303
    assert not answer.headers["location"].startswith("//")


# -- who may change something --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://["},
    ],
)
def test_a_form_of_another_site_changes_nothing_even_with_the_secret(folder: Path, headers: dict[str, str]) -> None:
    rule = rule_of(folder / "first")
    with client(folder, write=True) as reader:
        page = f"/run/first/memory/{rule}/retire"
        answer = reader.post(page, data={"csrf": secret(reader, page), "reason": "stolen"}, headers=headers)
    assert answer.status_code == 403
    assert status(folder / "first", rule) == "active"


@pytest.mark.parametrize("given", [{}, {"csrf": ""}, {"csrf": "guessed"}, {"csrf": "ä"}])
def test_a_form_without_the_secret_changes_nothing(folder: Path, given: dict[str, str]) -> None:
    rule = rule_of(folder / "first")
    with client(folder, write=True) as reader:
        answer = reader.post(f"/run/first/memory/{rule}/retire", data={"reason": "why not", **given})
    assert answer.status_code == 403
    assert "--write" in answer.text
    assert status(folder / "first", rule) == "active"


def test_a_form_too_large_for_any_of_ours_is_not_read(folder: Path) -> None:
    rule = rule_of(folder / "first")
    with client(folder, write=True) as reader:
        page = f"/run/first/memory/{rule}/retire"
        answer = reader.post(page, data={"csrf": secret(reader, page), "reason": "a" * 2_000_000})
    assert answer.status_code == 413
    assert status(folder / "first", rule) == "active"


def test_the_secret_of_one_server_is_none_for_another(folder: Path) -> None:
    rule = rule_of(folder / "first")
    page = f"/run/first/memory/{rule}/retire"
    with client(folder, write=True) as other:
        known = secret(other, page)
    with client(folder, write=True) as reader:
        assert reader.post(page, data={"csrf": known, "reason": "x"}).status_code == 403
    assert status(folder / "first", rule) == "active"


def test_without_write_no_page_offers_a_change_and_no_form_makes_one(folder: Path) -> None:
    rule = rule_of(folder / "first")
    with client(folder, write=True) as writer:
        known = secret(writer, f"/run/first/memory/{rule}/retire")
    with client(folder) as reader:
        assert "/retire" not in reader.get(f"/run/first/memory/{rule}").text
        assert reader.get(f"/run/first/memory/{rule}/retire").status_code == 403
        answer = reader.post(f"/run/first/memory/{rule}/retire", data={"csrf": known, "reason": "x"})
        assert answer.status_code == 403
    assert status(folder / "first", rule) == "active"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_no_other_method_does_anything(folder: Path, method: str) -> None:
    rule = rule_of(folder / "first")
    for page in ("/", "/run/first", f"/run/first/memory/{rule}", f"/run/first/memory/{rule}/retire"):
        assert client(folder, write=True).request(method, page).status_code == 405, page
    assert status(folder / "first", rule) == "active"


def test_a_look_changes_nothing_whatever_is_looked_at(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".sqlite-shm"}
    rule = rule_of(folder / "first")
    with client(folder, write=True) as reader:
        for page in ("/runs", "/run/first", "/run/first/episodes", f"/run/first/memory/{rule}/retire"):
            assert reader.get(page).status_code == 200
        assert reader.get(f"/run/first/memory?q=hinge&done={rule}").status_code == 200
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if before[path] != after[path]} <= {"ledger.sqlite-shm"}


# -- what is never served ------------------------------------------------------------------------------------------


@pytest.fixture
def outside(made: Path, tmp_path: Path) -> Path:
    """A run that lies beside the folder that is served, not in it."""
    secret = copied(made / "first", tmp_path / "outside")
    (secret / "config.json").write_text((secret / "config.json").read_text().replace('"seed":0', '"seed":77123'))
    return secret


def test_a_link_to_a_run_elsewhere_is_not_followed(folder: Path, outside: Path) -> None:
    (folder / "linked").symlink_to(outside)
    with client(folder) as reader:
        assert "linked" not in reader.get("/runs").text
        assert reader.get("/run/linked").status_code == 404


def test_a_run_with_a_file_that_lies_elsewhere_is_not_shown(folder: Path, outside: Path) -> None:
    files = ("ledger.sqlite", "config.json", "trace.jsonl", "metrics.jsonl", "ledger.sqlite-wal")
    for file in files:
        run = copied(folder / "first", folder / f"linked-{file}")
        (run / file).unlink(missing_ok=True)
        (outside / file).touch()
        (run / file).symlink_to(outside / file)
    with client(folder) as reader:
        assert "linked-" not in reader.get("/runs").text
        for file in files:
            for page in ("", "/episodes", "/memory", "/generations", "/calls", "/changes"):
                assert reader.get(f"/run/linked-{file}{page}").status_code == 404, (file, page)


def test_a_file_that_becomes_a_link_while_the_server_runs_is_not_followed(folder: Path, outside: Path) -> None:
    with client(folder) as reader:
        assert reader.get("/run/first").status_code == 200
        (folder / "first" / "config.json").unlink()
        (folder / "first" / "config.json").symlink_to(outside / "config.json")
        assert reader.get("/run/first").status_code == 404


def test_controls_that_lie_elsewhere_are_not_read(folder: Path, outside: Path) -> None:
    (folder / "first" / "controls").symlink_to(outside)
    with pytest.raises(SetupError, match="no run"):
        client(folder)


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "second").mkdir()
    for file in ("config.json", "ledger.sqlite"):
        (folder / "second" / file).symlink_to(folder / "first" / file)
    with client(folder) as reader:
        assert reader.get("/run/second").status_code == 200


def test_no_address_leads_out_of_the_folder(folder: Path, outside: Path) -> None:
    """Sent as they stand: a browser or a client would tidy them first."""
    paths = (
        *("/run/..", "/run/../../etc/passwd", "/run/%2e%2e", "/run/%2e%2e%2foutside", "/run/..%2Foutside"),
        *("/run/first/../../outside", "/run/first%00", "/run/%00", "/run/" + "a" * 9000, "/run/first~..~..~outside"),
        *("/run/%2F", "/run//", "/run/.", "/run/~", "/run/%ff%fe", "/run/first/adapters/..%2F..%2Foutside"),
        *("/run/first/memory/..%2F..%2Foutside", "/run/first/episodes/%00", "/run/first/lineage/..%2F..%2Foutside"),
        *("/run/first/commits/..%2Foutside", "/run/first/calls/../../outside", "/benchmarks/..", "/systems/..%2Fx"),
        *("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%00", "/static/"),
        *("/static//etc/passwd", "/static/%2Fetc%2Fpasswd", "/static/inspector.css/../../app.py", "/config.json"),
    )
    with served(folder) as base:
        for path in paths:
            connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=60)
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            assert answer.status in (400, 404), (path, answer.status)
            for told in ("77123", "root:", "def application"):
                assert told not in text, path


def test_static_files_are_the_pages_own_and_no_others(folder: Path) -> None:
    with client(folder) as reader:
        for name in ("inspector.css", "inspector.js", "icon.svg", "plotly.js"):
            assert reader.get(f"/static/{name}").status_code == 200
        (folder / "first" / "note.html").write_text("<h1>77123</h1>")
        for path in ("/static/note.html", "/run/first/note.html", "/first/note.html", "/run/first/config.json"):
            assert reader.get(path).status_code == 404


def test_names_with_tildes_and_folders_are_never_one_run(folder: Path) -> None:
    """`a/b` and a folder called `a~b` would have one address; so would a run and a run in it of the same name."""
    for name in ("a~b", "a/b", "a~/b", "a/~b", "a~.b"):
        shutil.copytree(folder / "first", folder / name)
    names = [run.name for run in Library(folder).runs()]
    assert len(set(names)) == len(names) == 6
    assert {"a~b", "a~.b"} <= set(names)
    with client(folder) as reader:
        for name in names:
            assert reader.get(f"/run/{quote(name)}").status_code == 200
    nested = shutil.copytree(folder / "first", folder / "first" / "first")
    assert {run.path for run in Library(folder / "first").runs()} == {folder / "first", nested}


def test_a_run_may_be_called_anything(folder: Path) -> None:
    names = (b"\xff\xfe run", "ä \u202e run".encode(), b"a?b#c%d&e", b"<b>x<", b"'\"", b"\x01\n", b"{{7*7}}")
    for name in names:
        shutil.copytree(os.fsencode(folder / "first"), os.fsencode(folder) + b"/" + name)
    with client(folder) as reader:
        links = {*re.findall(r'href="(/run/[^"/?]+)"', reader.get("/runs").text)}
        assert len(links) == 1 + len(names)
        for link in links:
            assert reader.get(link).status_code == 200, link
            assert reader.get(f"{link}/episodes").status_code == 200, link


# -- what every answer carries -------------------------------------------------------------------------------------


def test_every_answer_carries_the_headers_errors_and_refusals_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = client(folder, write=True)
    answers = {
        200: reader.get("/runs"),
        303: reader.get("/", follow_redirects=False),
        404: reader.get("/nothing"),
        405: reader.put("/runs"),
        403: reader.post("/runs", headers={"sec-fetch-site": "cross-site"}),
        421: reader.get("/", headers={"host": "evil.example"}),
        401: client(folder, host="0.0.0.0", token=TOKEN).get("/"),
    }
    monkeypatch.setattr(Library, "runs", lambda self: 1 / 0)
    answers[500] = reader.get("/runs")
    for code, answer in answers.items():
        assert answer.status_code == code
        for header in HEADERS:
            assert header in answer.headers, (code, header)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
    assert "ZeroDivisionError" in answers[500].text
    assert "Traceback" not in answers[500].text
    assert "no-store" in answers[200].headers["cache-control"]


# -- the connection ------------------------------------------------------------------------------------------------


def test_the_server_listens_on_ipv6_too(made: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")  # nothing to listen on
    try:
        with served(made, host="::1") as base:
            assert base.startswith("http://[::1]:")
            assert httpx.get(f"{base}/runs").status_code == 200
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")  # a container may be made without


def test_news_of_a_run_end_when_the_reader_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()
    told = live.look

    def looked(request: Request) -> Any:
        going.set()
        return told(request)

    monkeypatch.setattr(live, "look", looked)
    with served(folder) as base:
        before = threading.active_count()
        for _ in range(5):
            with httpx.stream("GET", f"{base}/run/first/changes", timeout=30) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                lines = answer.iter_lines()
                assert next(lines) == "retry: 2000"
                os.utime(folder / "first" / "config.json")
                assert any(line == "event: changed" for line in lines)
        assert going.is_set()
        assert threading.active_count() <= before + 2, "a reader who left holds no thread"
    # `served` joins its server, which waits a second at most for open answers: getting here is the proof.


def test_news_of_a_run_that_goes_away_end_the_page_no_worse_than_a_404(folder: Path) -> None:
    shutil.copytree(folder / "first", folder / "second")
    with served(folder) as base:
        with httpx.stream("GET", f"{base}/run/second/changes", timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            shutil.rmtree(folder / "second")
            assert any(line == "event: changed" for line in lines)
        assert httpx.get(f"{base}/run/second").status_code == 404
        assert httpx.get(f"{base}/runs").status_code == 200


def test_many_readers_at_once_are_all_answered(made: Path) -> None:
    pages = ["/runs", "/run/first", "/run/first/memory?q=hinge", "/run/first/episodes", "/run/first/generations"]
    codes: list[int] = []
    with served(made) as base:

        def reading(page: str) -> None:
            codes.append(httpx.get(base + page, timeout=60).status_code)

        threads = [threading.Thread(target=reading, args=(page,)) for page in pages * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == [200] * 20


def test_an_application_without_a_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no run in"):
        application(tmp_path)
    with pytest.raises(SetupError, match="not a directory"):
        application(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SetupError, match="not a directory"):
        application(tmp_path / "file")
