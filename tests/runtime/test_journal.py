"""The journal: what is finished survives whatever happens, and is used for nothing else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.journal import JOURNAL, Finished, Journal, check_folder, read_journal
from runtime.lock import LOCK
from schedules.errors import BadInput, MoelabError

QUESTION = {"n_prompts": 3, "gen_len": 4, "eos_token_ids": (2,)}
FIRST = Finished(1, (5, 2), "stop")
SECOND = Finished(0, (5, 6, 7, 8), "length")


def started(folder: Path, *sequences: Finished, question: dict[str, Any] = QUESTION) -> Path:
    """A folder with the journal of a run that was killed."""
    with Journal(folder, question) as journal:
        journal.add(sequences)
    return folder


def test_each_sequence_is_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append((tmp_path / "run" / JOURNAL).read_bytes())
    )
    with Journal(tmp_path / "run", QUESTION) as journal:
        journal.add([FIRST])
        journal.add([])
        assert len(synced) == 3  # header, its folder, sequence
        lines = synced[-1].decode().splitlines()
        assert json.loads(lines[0])["question"]["gen_len"] == 4
        assert json.loads(lines[1]) == {"index": 1, "token_ids": [5, 2], "finish": "stop"}
        assert journal.finished == {1: FIRST}
        assert journal.n_prompts == 3
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_that_fails_before_its_first_sequence_leaves_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path / "run", tmp_path / "run"):  # and can be asked something else
        with Journal(folder, QUESTION) as journal:
            assert folder.is_dir()
            journal.add([])
        assert not folder.exists()
    (tmp_path / "mine").mkdir()
    Journal(tmp_path / "mine", QUESTION).close()
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_resume_goes_on_with_what_is_there(tmp_path: Path) -> None:
    started(tmp_path, FIRST)
    with Journal(tmp_path, QUESTION, resume=True) as journal:
        assert journal.resumed
        assert journal.finished == {1: FIRST}
        journal.add([SECOND])
    with Journal(tmp_path, QUESTION, resume=True) as journal:
        assert journal.finished == {0: SECOND, 1: FIRST}


def test_resume_of_nothing_begins(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with Journal(tmp_path, QUESTION, resume=True) as journal:
        assert not journal.resumed
        assert journal.finished == {}
        journal.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


@pytest.mark.parametrize(
    "torn",
    [b'{"index":0,"token_ids":[5,6', b'{"index":0,"token_ids":[5,6\n', b"\0" * 40 + b"\n", b"{"],
)
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = started(tmp_path, FIRST) / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Journal(tmp_path, QUESTION, resume=True) as journal:
        assert journal.finished == {1: FIRST}
        journal.add([SECOND])
        assert path.read_bytes().startswith(whole + b'{"index":0')
    header, sequences, _ = read_journal(path)
    assert header is not None
    assert sequences == [FIRST, SECOND]


@pytest.mark.parametrize("size", range(0, 60, 7))
def test_a_torn_header_is_the_beginning(tmp_path: Path, size: int) -> None:
    path = started(tmp_path, SECOND) / JOURNAL
    path.write_bytes(path.read_bytes()[:size])
    with Journal(tmp_path, QUESTION, resume=True) as journal:
        journal.add([FIRST])
    assert read_journal(path)[1] == [FIRST]


@pytest.mark.parametrize(
    "line",
    [
        "rubbish",
        '{"index":0}',
        "[]",
        '{"index":0,"token_ids":[],"finish":"stop"}',
        '{"index":0,"token_ids":["5"],"finish":"stop"}',
        '{"index":-1,"token_ids":[5],"finish":"stop"}',
        '{"index":0,"token_ids":[5],"finish":"tired"}',
        '{"index":0,"token_ids":7,"finish":"stop"}',
    ],
)
def test_a_malformed_line_in_the_middle_is_an_error(tmp_path: Path, line: str) -> None:
    path = started(tmp_path, FIRST) / JOURNAL
    good = '{"index":1,"token_ids":[5,2],"finish":"stop"}\n'
    path.write_text(path.read_text().splitlines(keepends=True)[0] + line + "\n" + good)
    with pytest.raises(BadInput, match=f"^{path}, line 2: not a line of moelab's journal"):
        Journal(tmp_path, QUESTION, resume=True)
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("header", ['{"journal":2,"question":{}}', '{"index":0}', "7"])
def test_a_file_that_is_no_journal(tmp_path: Path, header: str) -> None:
    (tmp_path / JOURNAL).write_text(header + "\n")
    with pytest.raises(BadInput, match=r"line 1: not a line of moelab's journal"):
        Journal(tmp_path, QUESTION, resume=True)


# -- refusals --------------------------------------------------------------------------------------


def test_another_question_is_refused_and_the_journal_kept(tmp_path: Path) -> None:
    path = started(tmp_path, FIRST) / JOURNAL
    before = path.read_bytes()
    with pytest.raises(BadInput) as error:
        Journal(tmp_path, QUESTION | {"gen_len": 5}, resume=True)
    assert str(error.value) == (
        f"'{tmp_path}' holds a run of another question (gen_len was 4, now it is 5); ask the same, "
        "or give another folder"
    )
    assert path.read_bytes() == before
    assert not (tmp_path / LOCK).exists()


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    before = (started(tmp_path, FIRST) / JOURNAL).read_bytes()
    for attempt in (lambda: check_folder(tmp_path, False), lambda: Journal(tmp_path, QUESTION)):
        with pytest.raises(BadInput) as error:
            attempt()
        assert str(error.value) == (
            f"'{tmp_path}' holds an unfinished run (1 of 3 sequences); add --resume to go on with "
            "it, or give another folder"
        )
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_an_unreadable_journal_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("rubbish\n")
    with pytest.raises(BadInput, match=r"holds an unfinished run; add --resume"):
        Journal(tmp_path, QUESTION)


@pytest.mark.parametrize("name", ["tokens.jsonl", "result.json", "timeline.parquet"])
def test_a_finished_run_is_neither_overwritten_nor_resumed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("results")
    with pytest.raises(BadInput, match=rf"finished run \({name}\) and they would be overwritten"):
        Journal(tmp_path, QUESTION)
    with pytest.raises(BadInput, match=rf"finished run \({name}\) and there is nothing to resume"):
        Journal(tmp_path, QUESTION, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path, QUESTION) as journal:
        for resume in (True, False):
            with pytest.raises(BadInput, match=f"is in use by process {os.getpid()}"):
                Journal(tmp_path, QUESTION, resume)
        journal.add([FIRST])
    assert read_journal(tmp_path / JOURNAL)[1] == [FIRST]


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadInput, match="out' is a file; results need a folder"):
        check_folder(tmp_path / "out", False)
    with pytest.raises(BadInput, match=r"cannot make the folder '.*out': File exists"):
        Journal(tmp_path / "out", QUESTION)


def test_checking_a_folder_makes_none(tmp_path: Path) -> None:
    assert not check_folder(tmp_path / "a" / "b", True)
    assert not check_folder(tmp_path / "a" / "b", False)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with Journal(tmp_path, QUESTION) as journal:
        journal.add([FIRST])
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(MoelabError, match=r"No space left on device; what was finished before"):
            journal.add([SECOND])
        assert journal.finished == {1: FIRST}
