"""The journal: finished sequences on disk while the run goes on, so that it can be resumed.

`tokens.partial.jsonl` begins with a line that holds the question; each further line is a finished
sequence. Lines are appended, and are on the disk (fsync) before the next step begins. The file
begins with the first finished sequence: a run that fails before leaves nothing.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from runtime.lock import FolderLock
from runtime.question import Question, first_difference
from schedules.errors import BadInput, MoelabError

JOURNAL, TOKENS = "tokens.partial.jsonl", "tokens.jsonl"
FORMAT = 1
OTHER_RESULTS = ("result.json", "timeline.parquet", "routing.parquet")


@dataclass(frozen=True)
class Finished:
    """A sequence that is complete.

    `index` counts the prompts from 0; `token_ids` are the generated ones, an end-of-sequence token
    included; `finish` says why it ended: that token (`stop`), or enough tokens (`length`).
    """

    index: int
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]


class Journal:
    """The journal of a folder, which is this process's alone until `close`.

    Parameters
    ----------
    folder: is made when it is not there.
    question: what the run is asked, plain values; it has `n_prompts`.
    resume: go on with a run that was interrupted; without one, begin.

    Raises `BadInput` when the folder is in use, holds a run and `resume` is not asked for, holds a
    finished run, or one that was asked another question; `MoelabError` when it cannot be written.
    """

    def __init__(self, folder: Path, question: Question, resume: bool = False) -> None:
        self.folder = folder
        self.path = folder / JOURNAL
        self.finished: dict[int, Finished] = {}
        self._question = json.loads(json.dumps(dict(question)))  # tuples become lists, as on disk
        self._file = -1
        above = (folder, *folder.parents)
        self._made = [path for path in above if not path.exists()]  # by the next line, that is
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"cannot make the folder '{folder}': {error.strerror}") from None
        self._lock = FolderLock(folder)
        try:
            self.resumed = check_folder(folder, resume)
            self._whole_bytes = self._read() if self.resumed else 0
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def n_prompts(self) -> int:
        """Sequences of the whole run."""
        return int(self._question["n_prompts"])

    def add(self, sequences: Sequence[Finished]) -> None:
        """Append sequences; on the disk when this returns. Raises `MoelabError` when it is full."""
        if not sequences:
            return
        if self._file < 0:
            self._begin()
        self._append(asdict(s) for s in sequences)
        self.finished |= {s.index: s for s in sequences}

    def remove(self) -> None:
        """Delete the journal, when all results are written."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other processes in; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()
        with suppress(OSError):  # only those that are empty
            for path in self._made:
                path.rmdir()

    def _begin(self) -> None:
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._file, self._whole_bytes)
        except OSError as error:
            raise MoelabError(f"cannot write '{self.path}': {error.strerror}") from None
        if self._whole_bytes == 0:
            self._append([{"journal": FORMAT, "question": self._question}])
            _sync_folder(self.folder)

    def _append(self, lines: Iterable[dict[str, Any]]) -> None:
        data = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise MoelabError(
                f"cannot write '{self.path}': {error.strerror}; what was finished before is safe"
            ) from None

    def _read(self) -> int:
        """Take over what the journal holds; returns the bytes of its whole lines."""
        header, sequences, whole_bytes = read_journal(self.path)
        if header is None:
            return 0
        clause = first_difference(self._question, header)
        if clause is not None:
            raise BadInput(
                f"'{self.folder}' holds a run of another question ({clause}); ask the same, or "
                "give another folder"
            )
        for sequence in sequences:
            self.finished.setdefault(sequence.index, sequence)
        return whole_bytes


def check_folder(folder: Path, resume: bool) -> bool:
    """Whether there is a run to go on with. Writes nothing.

    Raises `BadInput` when there is a run and `resume` is not asked for, a finished run, or a folder
    that cannot be written.
    """
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long, links in a circle
        raise BadInput(f"the folder '{folder}' cannot be used: {error.strerror}") from None
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not there.is_dir():
        raise BadInput(f"'{there}' is a file; results need a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"the folder '{there}' is not writable; give another one for the results")
    if (folder / JOURNAL).is_file():
        if resume:
            return True
        raise BadInput(
            f"'{folder}' holds an unfinished run{_progress(folder)}; add --resume to go on with "
            "it, or give another folder"
        )
    held = [name for name in (TOKENS, *OTHER_RESULTS) if (folder / name).exists()]
    if held:
        what = "there is nothing to resume" if resume else "they would be overwritten"
        raise BadInput(
            f"'{folder}' holds the results of a finished run ({', '.join(held)}) and {what}; "
            "give another folder"
        )
    return False


def read_journal(path: Path) -> tuple[dict[str, Any] | None, list[Finished], int]:
    """The question (None before its line was whole), the sequences, and the bytes of these lines.

    A last line that was cut short is left out. Raises `BadInput` for any other malformed line.
    """
    lines = path.read_bytes().split(b"\n")
    header: dict[str, Any] | None = None
    sequences: list[Finished] = []
    whole_bytes = 0
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break is torn
        try:
            if header is None:
                header = _header(json.loads(line))
            else:
                sequences.append(_finished(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            if number == len(lines) - 1 and header is not None:
                break  # torn as well: a crash of the machine may leave zeros with a line break
            raise BadInput(
                f"{path}, line {number}: not a line of moelab's journal; give another folder"
            ) from None
        whole_bytes += len(line) + 1
    return header, sequences, whole_bytes


def _header(entry: Any) -> dict[str, Any]:
    if entry["journal"] != FORMAT:
        raise ValueError
    return dict(entry["question"])


def _finished(entry: Any) -> Finished:
    index, token_ids, finish = entry["index"], entry["token_ids"], entry["finish"]
    if not all(type(i) is int and i >= 0 for i in [index, *token_ids]):
        raise ValueError
    if finish not in ("stop", "length") or not token_ids:
        raise ValueError
    return Finished(index, tuple(token_ids), finish)


def _progress(folder: Path) -> str:
    with suppress(BadInput, OSError, KeyError):
        header, sequences, _ = read_journal(folder / JOURNAL)
        if header is not None:
            return f" ({len(sequences)} of {header['n_prompts']} sequences)"
    return ""


def _sync_folder(folder: Path) -> None:
    """Make the new file's name last, where folders can be synchronised."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
