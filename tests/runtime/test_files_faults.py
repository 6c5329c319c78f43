"""The files of a run when the disk is full or the process is killed."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from runtime.files import RunFiles, replaced, write_json
from runtime.journal import JOURNAL, Journal
from schedules.errors import BadInput, MoelabError
from tests.runtime.test_files import (
    NONE,
    PARTS,
    PROMPTS,
    QUESTION,
    RESULT,
    SEQUENCES,
    finish,
    names,
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


STAGES = ["tokens.jsonl", "timeline.parquet", "result.json", "routing.parquet"]


@pytest.mark.parametrize("stage", range(len(STAGES)))
def test_a_full_disk_at_the_end_leaves_a_run_that_can_be_resumed(
    out: Path, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == out / STAGES[stage]:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(MoelabError, match=f"cannot write '{out / STAGES[stage]}': No space left"):
        finish(out)
    left = [name for name in names(out) if not name.startswith("parts")]
    assert left == sorted([*STAGES[:stage], JOURNAL])  # in this order, and nothing half-written
    monkeypatch.undo()
    with Journal(out, QUESTION, resume=True) as journal:
        assert len(journal.finished) == 3
        run = RunFiles(journal, "run")
        assert len(run.records()) == 2
        run.write(SEQUENCES, PROMPTS, NONE, RESULT)
    assert names(out) == sorted(STAGES)


def test_a_process_that_is_killed_while_it_tidies_up_has_finished(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resumed run would find no measurements and write a result without any."""

    def killed(folder: Path, ignore_errors: bool) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        finish(out)
    assert (out / "parts").is_dir()
    with pytest.raises(BadInput, match="there is nothing to resume"):
        Journal(out, QUESTION, resume=True)


def test_a_part_that_cannot_be_written(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with Journal(out, QUESTION) as journal:
        run = RunFiles(journal, "run")
        monkeypatch.setattr(pq, "write_table", full)
        with pytest.raises(MoelabError, match="No space left on device") as error:
            run.keep(*PARTS[0])
        assert type(error.value) is MoelabError
    assert names(out) == ["parts"]


def test_a_failed_file_keeps_the_older_one(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})

    def fail() -> None:
        with replaced(tmp_path / "a.json") as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
