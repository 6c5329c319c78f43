"""One process per folder."""

import fcntl
import os
from pathlib import Path

from schedules.errors import BadInput, MoelabError

LOCK = "run.lock"


class FolderLock:
    """Held by one process at a time; the file `run.lock` names it.

    The kernel holds the lock (`flock`), so that it ends with the process, however that ends: the
    file of a killed process is taken over, and no other process that was given its number is
    mistaken for it.

    Raises `BadInput` when another process (or this one) holds it, `MoelabError` when the folder
    cannot be locked.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        try:
            self._file = self._acquire()
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except OSError as error:
            raise MoelabError(f"cannot lock '{folder}': {error.strerror or error}") from None

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        if self._file < 0:
            return
        if _is_at(self._file, self._path):
            self._path.unlink()
        os.close(self._file)
        self._file = -1

    def _acquire(self) -> int:
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(file, 32).decode(errors="replace").strip()
                os.close(file)
                raise BadInput(
                    f"'{self._path.parent}' is in use by process {holder or '(unknown)'}; wait for "
                    "its end or give another folder"
                ) from None
            except OSError:
                os.close(file)
                raise
            if _is_at(file, self._path):
                return file
            os.close(file)  # its holder removed the file between our opening and locking it


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
