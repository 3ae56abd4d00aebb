"""Who writes to a memory, told without asking for the lock."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evolvent.memory.errors import LedgerLockedError
from evolvent.memory.lock import WriterLock, writer

HOLDS = """
import sys
from pathlib import Path
from evolvent.memory.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_process_that_holds_the_lock_is_named_until_it_lets_go(tmp_path: Path) -> None:
    file = tmp_path / "ledger.lock"
    assert writer(file) is None
    lock = WriterLock(file)
    assert writer(file) == os.getpid()
    lock.release()
    assert file.read_text() == str(os.getpid()), "the number stays behind"
    assert writer(file) is None


def test_it_is_free_at_once_though_a_child_that_was_just_forked_still_has_the_file(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path / "ledger.lock")
    of_the_child = os.dup(lock._file)
    lock.release()
    WriterLock(tmp_path / "ledger.lock").release()
    os.close(of_the_child)
    parents = WriterLock(tmp_path / "ledger.lock")
    inherited = copy.copy(parents)
    inherited._file = os.dup(parents._file)
    inherited.let_go()  # what the child does once it runs
    with pytest.raises(LedgerLockedError, match=str(os.getpid())):
        WriterLock(tmp_path / "ledger.lock")
    parents.release()


def test_another_process_is_named_until_it_dies_and_is_not_disturbed(tmp_path: Path) -> None:
    file = tmp_path / "ledger.lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(file)], **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        assert writer(file) == process.pid
        process.kill()
    assert writer(file) is None
    WriterLock(file).release()


@pytest.mark.parametrize("text", ["", "nobody", "-1", "0", "9" * 30, "\xff"])
def test_a_file_that_names_no_living_process_names_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "ledger.lock"
    file.write_text(text, encoding="latin-1")
    assert writer(file) is None
