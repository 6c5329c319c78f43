"""One process per folder, whatever becomes of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.lock import LOCK, FolderLock
from schedules.errors import BadInput, MoelabError

HOLD = """
import sys, time
from pathlib import Path
from runtime.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_held_until_it_is_released(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    with pytest.raises(BadInput, match=f"^'{tmp_path}' is in use by process {os.getpid()}; wait"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    FolderLock(tmp_path).release()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(BadInput, match=f"is in use by process {other.pid};"):
                FolderLock(tmp_path)
        finally:
            other.send_signal(signal.SIGKILL)
            other.wait()
    assert (tmp_path / LOCK).exists()
    lock = FolderLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_file_of_that_name_that_nobody_holds(tmp_path: Path) -> None:
    """As after a power cut, with the number of a process that lives."""
    (tmp_path / LOCK).write_text("1\n and more")
    lock = FolderLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    lock.release()


def test_the_file_is_removed_between_opening_and_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real, calls = fcntl.flock, []

    def flock(file: int, how: int) -> None:
        if not calls:
            (tmp_path / LOCK).unlink()  # its holder has just released it
        calls.append(file)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = FolderLock(tmp_path)
    assert len(calls) == 2
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(MoelabError, match=f"^cannot lock '{tmp_path}': Is a directory"):
        FolderLock(tmp_path)
