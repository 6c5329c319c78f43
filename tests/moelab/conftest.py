"""The command line as a user meets it: what it prints, how it ends, which files it leaves."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moelab.cli import main

SMALL = "--model mixtral-8x7b --hardware gcp-t4-24c --workload mtbench --gen-len 3 -N 8 -u 2"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str
    before: dict[str, bytes]
    after: dict[str, bytes]

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)

    @property
    def written(self) -> set[str]:
        """Files that are new or changed."""
        return {name for name, held in self.after.items() if self.before.get(name) != held}

    @property
    def mistake(self) -> str:
        """The one sentence that a mistake ends in; nothing else may have been said or written."""
        assert self.code == 2
        assert self.out == ""
        assert self.before == self.after
        assert "Traceback" not in self.err
        assert self.err.startswith("moelab: ")
        assert self.err.index("\n") == len(self.err) - 1
        return self.err.removeprefix("moelab: ").strip()


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder; a folder itself ends in a slash."""
    return {
        f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}": b""
        if path.is_dir()
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run `moelab ARGUMENTS...` in an own folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        before = contents(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        code = end.value.code
        captured = capsys.readouterr()
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, captured.out, captured.err, before, contents(tmp_path))

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny Mixtral; tests that change it change a copy."""
    from tests.runtime.checkpoints import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "mixtral")


@pytest.fixture
def small() -> list[str]:
    """A question that takes a tenth of a second: Mixtral on a T4, 8 sequences, 3 tokens each."""
    return SMALL.split()
