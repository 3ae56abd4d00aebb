"""What memory survives: killed writers, a broken or missing index, a second writer, a directory it may not write."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from evolvent.environments.types import Outcome, Task, Trajectory
from evolvent.memory.chroma import ChromaIndex
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import BadImportError, LedgerLockedError, LedgerUnwritableError
from evolvent.memory.fsck import check_ledger, fsck
from evolvent.memory.ledger import Ledger
from evolvent.memory.rendering import trajectory_record
from evolvent.memory.store import Memory
from evolvent.memory.transfer import export_jsonl, export_records, import_jsonl
from evolvent.memory.types import Event, Record, Scope, new_record, record_id


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Children forked from a server that has imported Chroma once: killing twenty of them is quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chromadb", "evolvent.memory.store", __name__])
    return context


def opened(folder: Path) -> Memory:
    return Memory.open(folder, embedder=HashEmbedder(64))


def add(*records: Record) -> list[Event]:
    return [Event("add", record.id, record) for record in records]


def played(name: str) -> Trajectory:
    return Trajectory(name, Task(name, f"Mend {name}.", "workshop"), "smith", (), Outcome(1.0, True))


@contextmanager
def outsider(chroma: Path) -> Iterator[Any]:
    """The folder as somebody sees it who has only `chromadb`."""
    import chromadb
    from chromadb.config import Settings

    client: Any = chromadb.PersistentClient(str(chroma), settings=Settings(anonymized_telemetry=False))
    yield client
    client.close()  # which its declared type lacks


def assert_sound(memory: Memory) -> None:
    """The index equals the ledger: the same records in the same words and standing, at the same commit."""
    folder = memory.ledger.path.parent
    index = ChromaIndex(folder / "chroma", "hash-64")
    assert index.state().commit == memory.ledger.head()
    assert index.holds(memory.records())
    index.close()
    shown: dict[str, tuple[str, object]] = {}
    with outsider(folder / "chroma") as client:
        for name in ("rules", "trajectories"):
            kept = client.get_collection(name).get()
            for record, text, facts in zip(kept["ids"], kept["documents"] or [], kept["metadatas"] or [], strict=True):
                shown[record] = (text, facts["status"])
    assert shown == {key: (record.text, record.status) for key, record in memory.records().items()}


# -- killed writers --------------------------------------------------------------------------------------------------


def write_until_killed(folder: Path, first: int, acknowledged: int) -> None:
    """Every kind of write without end; each is told to the pipe only after it was acknowledged."""

    def tell(what: str, step: int) -> None:
        os.write(acknowledged, f"{what} {step}\n".encode())

    with opened(folder) as memory:
        os.write(acknowledged, b"open\n")
        if memory.branch != "main":  # the last one died on a branch
            memory.checkout("main")
        for step in range(first, first + 100_000):
            trajectory = played(f"t{step}")
            memory.add_episode(f"train/0/t{step}/0", [trajectory])
            tell("episode", step)
            memory.ledger.add_memo(f"memo {step}", "text")
            tell("memo", step)
            rule = new_record("rule", f"rule {step % 7}", parents=(trajectory.id,))
            change = Event("retire" if step % 3 else "activate", rule.id)
            memory.commit(f"step {step}", [*add(rule, trajectory_record(trajectory)), change], generation=step)
            tell("commit", step)
            match step % 4:
                case 1:
                    memory.make_branch(f"branch-{step}")
                    memory.checkout(f"branch-{step}")
                    memory.commit(f"side {step}", add(new_record("note", f"side {step}")), generation=step)
                    memory.checkout("main")
                    memory.commit(f"main {step}", add(new_record("note", f"main {step}")), generation=step)
                    memory.merge(f"branch-{step}")
                    tell("merge", step)
                case 2:
                    memory.revert(memory.commit(f"wrong {step}", [Event("reject", rule.id)], generation=step))
                    tell("revert", step)
                case 3:
                    memory.forget(trajectory.id)
                    tell("forget", step)


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_a_writer_killed_at_any_moment_loses_nothing_it_acknowledged(
    tmp_path: Path, processes: ForkServerContext, kills: int
) -> None:
    draw = random.Random(0)
    done: set[str] = set()
    for kill in range(kills):
        reading, writing = os.pipe()
        first = kill * 100_000 + kill  # so that each kind of write comes early in the life of some writer
        child = started(processes, write_until_killed, tmp_path, first, Inherited(writing))
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            if kill % 4:  # else it dies while opening, which is when the last one's index is repaired
                lines = [pipe.readline() for _ in range(1 + draw.randrange(6))]
                assert lines[0] == b"open\n"
                done |= {line.strip().decode() for line in lines[1:]}
                time.sleep(draw.uniform(0, 0.05))
            else:
                time.sleep(draw.uniform(0, 0.25))
            child.kill()
            child.join()
            done |= {line.strip().decode() for line in pipe.readlines() if line.endswith(b"\n")}
        if kill % 5 == 4:
            with opened(tmp_path) as memory:
                check_acknowledged(memory, done - {"open"})
                assert fsck(memory) == []
    assert len(done) > kills
    assert {line.split()[0] for line in done - {"open"}} == {"episode", "memo", "commit", "merge", "revert", "forget"}


def check_acknowledged(memory: Memory, done: set[str]) -> None:
    main = memory.resolve("main")
    committed = {commit.key for commit in memory.ledger.commits(main)}
    reverted = {commit.key for commit in memory.ledger.commits(main) if commit.id in memory.ledger.reverted(main)}
    records = memory.records(main)
    for line in done:
        what, step = line.split()
        match what:
            case "episode":
                assert memory.ledger.episode(f"train/0/t{step}/0") == (played(f"t{step}"),)
            case "memo":
                assert memory.ledger.memo(f"memo {step}") == "text"
            case "commit":
                assert f"step {step}" in committed
                # The one whose forgetting was under way when the writer died may be gone, or not yet.
                assert int(step) % 4 == 3 or trajectory_record(played(f"t{step}")).id in records
            case "merge":
                assert {f"main {step}", f"side {step}"} <= committed
                assert {record_id("note", f"{side} {step}", Scope()) for side in ("main", "side")} <= records.keys()
            case "revert":
                assert f"wrong {step}" in reverted
            case "forget":
                assert trajectory_record(played(f"t{step}")).id not in records
                assert not [record.id for record in records.values() if f"t{step}" in record.parents]


class Inherited:
    """A file descriptor handed to a child process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[..., int], tuple[object, ...]]:
        from multiprocessing.reduction import DupFd

        return _received, (DupFd(self.number),)


def _received(handle: Any) -> int:
    return int(handle.detach())


def started(context: ForkServerContext, work: Callable[..., None], *arguments: object) -> ForkServerProcess:
    child = context.Process(target=work, args=arguments, daemon=True)
    child.start()
    return child


def answer(context: ForkServerContext, work: Callable[..., list[str]], *arguments: object) -> list[str]:
    """The lines that `work` returns in a process of its own; none where it dies."""
    reading, writing = os.pipe()
    child = started(context, _answered, Inherited(writing), work, *arguments)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    child.join()
    return lines


def _answered(writing: int, work: Callable[..., list[str]], *arguments: object) -> None:
    os.write(writing, "\n".join(work(*arguments)).encode())


# -- a broken index --------------------------------------------------------------------------------------------------


def vanish(chroma: Path) -> None:
    shutil.rmtree(chroma)


def garbage(chroma: Path) -> None:
    (chroma / "chroma.sqlite3").write_bytes(random.Random(0).randbytes(5000))


def torn(chroma: Path) -> None:
    os.truncate(chroma / "chroma.sqlite3", (chroma / "chroma.sqlite3").stat().st_size // 2)


def emptied(chroma: Path) -> None:
    (chroma / "chroma.sqlite3").write_bytes(b"")


def vectors_gone(chroma: Path) -> None:
    for folder in vector_folders(chroma):
        shutil.rmtree(folder)


def vectors_garbage(chroma: Path) -> None:
    for folder in vector_folders(chroma):
        for file in folder.iterdir():
            file.write_bytes(random.Random(0).randbytes(5000))


def a_file_instead(chroma: Path) -> None:
    shutil.rmtree(chroma)
    chroma.write_bytes(b"not a folder")


def vector_folders(chroma: Path) -> list[Path]:
    return [path for path in chroma.iterdir() if path.is_dir()]


def item_deleted(chroma: Path) -> None:
    edit(chroma, lambda rules: rules.delete(ids=rules.get(limit=1)["ids"]))


def item_added(chroma: Path) -> None:
    edit(chroma, lambda rules: rules.add(ids=["stray"], documents=["stray"], embeddings=[[1.0] * 64]))


def collection_deleted(chroma: Path) -> None:
    edit(chroma, lambda rules: rules._client.delete_collection("trajectories"))


def edit(chroma: Path, change: Callable[..., object]) -> None:
    with outsider(chroma) as client:
        change(client.get_collection("rules"))


BREAKS = [
    *(vanish, garbage, torn, emptied, vectors_gone, vectors_garbage, a_file_instead),
    *(item_deleted, item_added, collection_deleted),
]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed memory with more rules than Chroma keeps in its log, so that vector files exist."""
    folder = tmp_path_factory.mktemp("large")
    with opened(folder) as memory:
        rules = [new_record("rule", f"rule {i}") for i in range(1200)]
        memory.commit("learn", add(*rules, trajectory_record(played("t1"))), generation=1)
    return folder


@pytest.mark.parametrize("broken", BREAKS, ids=lambda each: each.__name__)
def test_a_broken_index_is_noticed_and_made_again_from_the_ledger(
    tmp_path: Path, large: Path, broken: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(large, folder)
    assert vector_folders(folder / "chroma"), "the vectors of this store are in files"
    broken(folder / "chroma")
    with caplog.at_level(logging.WARNING), opened(folder) as memory:
        assert len(memory.records()) == 1201
        assert_sound(memory)
        memory.commit("after", add(new_record("rule", "learned after the repair")), generation=2)
        assert_sound(memory)
    left = {path.name for path in folder.iterdir()}
    assert left <= {"ledger.sqlite", "ledger.lock", "ledger.sqlite-wal", "ledger.sqlite-shm", "chroma"}


def test_an_index_that_is_behind_gets_only_what_it_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = new_record("rule", "old"), new_record("rule", "new")
    with opened(tmp_path) as memory:
        memory.commit("a", add(old), generation=1)
        # The process dies after the ledger's transaction and before the index hears of it.
        memory.ledger.commit("b", [*add(new), Event("retire", old.id)], generation=2)
    monkeypatch.setattr(ChromaIndex, "rebuild", None)
    with opened(tmp_path) as memory:
        assert_sound(memory)


def test_an_index_deleted_in_mid_run_is_made_again_at_the_next_write(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.commit("a", add(new_record("rule", "before")), generation=1)
        shutil.rmtree(tmp_path / "chroma")
        memory.commit("b", add(new_record("rule", "after")), generation=2)
        assert_sound(memory)


def test_a_rebuild_that_was_killed_half_way_leaves_no_trace_after_the_next_one(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.commit("a", add(new_record("rule", "kept")), generation=1)
    shutil.copytree(tmp_path / "chroma", tmp_path / "chroma.new")
    (tmp_path / "chroma").rename(tmp_path / "chroma.old")
    with opened(tmp_path) as memory:
        assert_sound(memory)
    assert not list(tmp_path.glob("chroma.*"))


# -- who may write ---------------------------------------------------------------------------------------------------


def hold(folder: Path, ready: int) -> None:
    with opened(folder):
        os.write(ready, b"ready")
        time.sleep(60)


def test_a_second_writer_is_told_which_process_has_the_memory(tmp_path: Path, processes: ForkServerContext) -> None:
    reading, writing = os.pipe()
    child = started(processes, hold, tmp_path, Inherited(writing))
    os.close(writing)
    try:
        assert os.read(reading, 5) == b"ready"
        with pytest.raises(LedgerLockedError, match=f"process {child.pid}; one writer"):
            opened(tmp_path)
        Memory.open(tmp_path, embedder=HashEmbedder(64), read_only=True).close()
    finally:
        child.kill()
        child.join()
        os.close(reading)
    opened(tmp_path).close()


def test_a_forked_child_does_not_keep_the_memory_locked(tmp_path: Path) -> None:
    memory = opened(tmp_path)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons dislike a fork beside threads; so do we
        child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # returns when the parent closes its end
        os._exit(0)
    os.close(reading)
    memory.close()
    opened(tmp_path).close()
    os.close(writing)
    os.waitpid(child, 0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that an unprivileged user can reach, which `tmp_path` is not when tests run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def become_nobody() -> None:
    """Who may only read what is open to all; an unprivileged user may do no more anyway."""
    if os.geteuid() == 0:
        os.setuid(65534)


def open_unprivileged(folder: Path) -> list[str]:
    """Opens the folder for writing and for reading as somebody who may only read it."""
    become_nobody()
    told = []
    try:
        opened(folder).close()
    except LedgerUnwritableError as error:
        told.append(str(error))
    with Memory.open(folder, embedder=HashEmbedder(64), read_only=True) as memory:
        told.append(memory.search("kept", k=1)[0].record.text)
    return told


def test_a_read_only_directory_is_one_clear_error_to_write_and_none_to_read(
    public: Path, processes: ForkServerContext
) -> None:
    with opened(public) as memory:
        memory.commit("a", add(new_record("rule", "kept")), generation=1)
    (public / "ledger.lock").unlink()
    public.chmod(0o555)
    refused, found = answer(processes, open_unprivileged, public)
    assert refused == (
        f"Cannot write memory in {public}: Permission denied. "
        "Open it with read_only=True, or choose a directory you may write to."
    )
    assert found == "kept"


def test_a_full_disk_is_one_clear_error_and_the_step_leaves_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    head = ledger.commit("a", add(new_record("rule", "kept")), generation=1)
    ledger._db.execute("PRAGMA max_page_count = 50")  # SQLite's own way of having no room left
    text = random.Random(0).randbytes(400_000).hex()
    for write in (
        lambda: ledger.commit("b", add(new_record("rule", text)), generation=1),
        lambda: ledger.add_memo("m", text),
    ):
        with pytest.raises(LedgerUnwritableError, match="full"):
            write()
    assert ledger.head() == head
    assert [record.text for record in ledger.records().values()] == ["kept"]
    assert ledger.memo("m") is None
    ledger.add_memo("small", "still writes")
    ledger.close()


def fill(folder: Path) -> list[str]:
    """Writes until the system lets no file grow any more, then says what it was told and what is left."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with opened(folder) as memory:
        memory.commit("a", add(new_record("rule", "kept")), generation=1)
        export_jsonl(memory.ledger, folder / "export.jsonl")
        largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 200_000, resource.RLIM_INFINITY))
        draw = random.Random(0)
        told: list[Exception] = []
        kept = 0
        while not told:
            try:
                memory.ledger.add_memo(f"memo {kept}", draw.randbytes(20_000).hex())
                kept += 1
            except LedgerUnwritableError as error:
                told.append(error)
        for write in (
            lambda: memory.commit("b", add(new_record("rule", draw.randbytes(400_000).hex())), generation=2),
            lambda: memory.add_episode("train/0/t1/0", [played(draw.randbytes(400_000).hex())]),
            lambda: export_jsonl(memory.ledger, folder / "export.jsonl"),
        ):
            if len(told) == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
            try:
                write()
            except LedgerUnwritableError as error:
                told.append(error)
        assert len(memory.ledger.commits()) == 1
    return [str(kept), *(str(error) for error in told)]


def test_files_that_may_not_grow_are_one_clear_error_each_and_lose_nothing(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    kept, *told = answer(processes, fill, tmp_path)
    assert len(told) == 4
    assert all(str(tmp_path) in each for each in told)
    assert all("free space or rights, then resume" in each for each in told[:3])
    assert told[3].startswith(f"Cannot write {tmp_path / 'export.jsonl'}: File too large")
    with opened(tmp_path) as memory:
        assert fsck(memory) == []
        assert [record.text for record in memory.records().values()] == ["kept"]
        assert all(memory.ledger.memo(f"memo {number}") for number in range(int(kept)))
        assert memory.ledger.memo(f"memo {kept}") is None
    assert not list(tmp_path.glob(".export*"))
    (tmp_path / "again").mkdir()
    assert check_ledger(import_jsonl(tmp_path / "export.jsonl", tmp_path / "again")) == []


def import_where_nothing_fits(file: Path, directory: Path) -> list[str]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        import_jsonl(file, directory)
    except LedgerUnwritableError as error:
        return [str(error)]
    return []


def test_an_import_that_finds_no_room_leaves_nothing(tmp_path: Path, processes: ForkServerContext) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add_memo("large", random.Random(0).randbytes(200_000).hex())
    export_jsonl(ledger, tmp_path / "export.jsonl")
    ledger.close()
    (told,) = answer(processes, import_where_nothing_fits, tmp_path / "export.jsonl", tmp_path / "again")
    assert told.startswith(f"Cannot make a memory in {tmp_path / 'again'}: Cannot write ")
    assert {path.name for path in tmp_path.iterdir()} <= {"export.jsonl", "ledger.sqlite", "ledger.lock"}


def export_unprivileged(folder: Path) -> list[str]:
    """All that only reads, and all that would write, by somebody who may only read the folder."""
    become_nobody()
    with Memory.open(folder, embedder=HashEmbedder(64), read_only=True) as memory:
        told = [str(check_ledger(memory.ledger.path))]
        for write in (
            lambda: export_jsonl(memory.ledger, folder / "export.jsonl"),
            lambda: export_records(memory.records(), folder / "records.jsonl"),
            lambda: import_jsonl(folder / "missing.jsonl", folder / "again"),
            lambda: memory.forget(next(iter(memory.records()))),
            lambda: memory.revert("HEAD"),
        ):
            try:
                write()
            except (LedgerUnwritableError, BadImportError) as error:
                told.append(str(error))
    return told


def test_a_read_only_directory_can_be_examined_and_each_write_says_why_not(
    public: Path, processes: ForkServerContext
) -> None:
    with opened(public) as memory:
        memory.commit("a", add(new_record("rule", "kept")), generation=1)
    before = {path: path.read_bytes() for path in public.rglob("*") if path.is_file()}
    public.chmod(0o555)
    sound, *refused = answer(processes, export_unprivileged, public)
    assert sound == "[]"
    assert refused == [
        f"Cannot write {public / 'export.jsonl'}: Permission denied. Nothing was exported.",
        f"Cannot write {public / 'records.jsonl'}: Permission denied. Nothing was exported.",
        f"Cannot make a memory in {public / 'again'}: [Errno 13] Permission denied: '{refused[2].split(chr(39))[1]}'",
        *2 * [f"{public / 'ledger.sqlite'} was opened with read_only=True; open it for writing."],
    ]
    assert {path: path.read_bytes() for path in public.rglob("*") if path.is_file()} == before
