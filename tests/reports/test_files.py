"""A file is there whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reports.files import write_text
from schedules.errors import BadInput


def test_writes_utf8_and_leaves_nothing_else(
    tmp_path: Path, files_in: Callable[[], list[str]]
) -> None:
    write_text(tmp_path / "a.txt", "µ = 36")
    assert (tmp_path / "a.txt").read_bytes() == "µ = 36".encode()
    assert files_in() == ["a.txt"]


def test_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    write_text(str(tmp_path / "a.txt"), "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_missing_folder(tmp_path: Path, files_in: Callable[[], list[str]]) -> None:
    with pytest.raises(BadInput, match=r"^cannot write '.*a\.txt': the folder .* does not exist$"):
        write_text(tmp_path / "missing" / "a.txt", "text")
    assert files_in() == []


def test_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it is a folder, a file name is needed"):
        write_text(tmp_path, "text")


def test_failure_keeps_the_old_file_and_removes_the_partial_one(
    tmp_path: Path, files_in: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BadInput, match=r"cannot write '.*a\.txt': No space left on device"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert files_in() == ["a.txt"]


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(BadInput, match="cannot write"):
        write_text(tmp_path / ("x" * 300), "text")
    assert list(tmp_path.iterdir()) == []
