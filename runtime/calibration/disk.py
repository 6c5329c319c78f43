"""Bench `disk`: sequential reads of a file that memory does not hold, as far as can be had.

The system's cache is told to forget the file; a cache of the host below a virtual machine is not.
"""

import os
import shutil
import tempfile
import time
from itertools import takewhile
from pathlib import Path

from runtime.calibration.effort import Effort, Item, Items, item
from runtime.calibration.room import TILE, random_bytes
from runtime.calibration.store import Params
from runtime.device import DeviceOptions

SIZES = tuple((1 << 20) * 4**i for i in range(4))  # 1 to 64 MiB
STRETCHES = 8
FREE = 0.1  # of the free space may be taken for a moment


def points(options: DeviceOptions, effort: Effort, folder: Path) -> Items:
    """Params `size_bytes` of a read and `pattern`; the amount is in `bytes`, of many reads.

    The system reads ahead, so that one read finds its bytes and the next waits long: only many
    reads together have a rate. A temporary file is written in `folder` with the first point, and
    removed with the last.
    """
    file = ColdFile(folder, _bytes(folder, effort))
    try:
        for size in takewhile(lambda s: s <= file.stretch, SIZES):
            yield _point(file, size)
    finally:
        file.remove()


def _point(file: "ColdFile", size: int) -> Item:
    params: Params = {"size_bytes": size, "pattern": "sequential"}
    amount = {"bytes": file.stretch // size * size}
    return item("disk", params, amount, lambda: file.seconds(size))


def _bytes(folder: Path, effort: Effort) -> int:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    room = int(shutil.disk_usage(there).free * FREE)
    return min(room, effort.disk_bytes) // TILE * TILE


class ColdFile:
    """A file of random bytes, written when it is first read.

    Parameters
    ----------
    folder: where it lies; is made when it is not there.
    size: in bytes, whole MiB; it is read in `STRETCHES`.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.stretch = size // STRETCHES // TILE * TILE
        self.path: Path | None = None

    def seconds(self, size: int) -> list[float]:
        """Seconds of each stretch, in reads of so many bytes, one after the other."""
        path = self.path or self._written()
        buffer = memoryview(bytearray(size))
        count = self.stretch // size
        number = os.open(path, os.O_RDONLY)
        try:
            _forget(number)
            return [_read(number, buffer, i * count * size, count) for i in range(STRETCHES)]
        finally:
            os.close(number)

    def remove(self) -> None:
        """Delete the file, if there is one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _written(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=".moelab-disk-", dir=self.folder)
        self.path = Path(name)  # before it is whole: it must go in any case
        tile = random_bytes(TILE).numpy().data
        with os.fdopen(number, "wb") as file:
            for _ in range(self.size // TILE):
                file.write(tile)
            file.flush()
            os.fsync(number)  # only clean pages can be forgotten
        return self.path


def _forget(number: int) -> None:
    """Drop a file from the system's cache, where the system can be told to."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)


def _read(number: int, buffer: memoryview, start: int, count: int) -> float:
    """Seconds of so many reads of the buffer's size, from byte `start` on."""
    begin = time.perf_counter()
    for first in range(start, start + count * len(buffer), len(buffer)):
        at = 0
        while at < len(buffer):
            at += os.preadv(number, [buffer[at:]], first + at)
    return time.perf_counter() - begin
