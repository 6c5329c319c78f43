"""Where results go, and what is refused before any work is done."""

import json
import os
from pathlib import Path

import pytest

from moelab.output import LONGEST_NAME, check_distinct, check_target, show, write_json
from schedules.errors import BadInput

HERE = Path("-")


@pytest.mark.parametrize("name", ["out.json", "out", "a.b.c", "x" * LONGEST_NAME, "-", "-.json"])
def test_targets_that_can_be_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    check_target(Path(name))
    check_target(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_no_target():
    check_target(None, (".html",))
    check_distinct(None, None)
    check_distinct(Path("a"), None)


@pytest.mark.parametrize(
    ("name", "suffixes", "reason"),
    [
        ("missing/out.json", (), "the folder '.*missing' does not exist"),
        ("file/out.json", (), "the folder '.*file' does not exist"),
        ("folder", (), "it is a folder, a file name is needed"),
        ("out.png", (".html", ".json"), r"its name must end in \.html, \.json$"),
        ("out", (".html",), r"its name must end in \.html$"),
        ("out.HTML", (".html",), r"its name must end in \.html$"),
        ("-", (".html",), r"its name must end in \.html$"),
        ("x" * 201, (), "its name has more than 200 bytes"),
        ("x" * 5000, (), "its name has more than 200 bytes"),
        ("é" * 101, (), "its name has more than 200 bytes"),
        ("x" * 300 + "/out", (), "does not exist"),
    ],
)
def test_targets_that_cannot(tmp_path, name, suffixes, reason):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=r"(?s)^cannot write '.*': .*" + reason):
        check_target(Path("-") if name == "-" else tmp_path / name, suffixes)


def test_a_folder_that_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK))
    with pytest.raises(BadInput, match="is not writable"):
        check_target(tmp_path / "out.json")


def test_two_results_need_two_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_distinct(Path("a.json"), Path("b.json"))
    with pytest.raises(BadInput, match=r"^'a\.json' was asked for twice"):
        check_distinct(Path("a.json"), tmp_path / "x" / ".." / "a.json")


def test_json_values_come_back(tmp_path, capsys):
    value = {"a": [1, 2.5, None, True], "b": {"c": "é"}}
    write_json(tmp_path / "v.json", value)
    write_json(HERE, value)
    write_json(None, value)
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "v.json").read_text(encoding="utf-8")
    assert json.loads(printed) == value
    assert printed.endswith("}\n")


def test_what_is_not_json_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "v.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_shown_when_standard_output_is_for_json(capsys):
    show(HERE, "a sentence")
    assert capsys.readouterr().out == ""
    show(Path("file.json"), "a sentence")
    assert capsys.readouterr().out == "a sentence\n"


def test_sentences_are_shown_as_they_are(capsys):
    sentence = "Written: /[bold]x/" + "long/" * 100 + "[red]"
    show(None, sentence)
    assert capsys.readouterr().out == sentence + "\n"
