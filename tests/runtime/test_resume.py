"""Generation that is interrupted, killed, and resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.batches import Batch
from runtime.generate import Interrupted
from runtime.journal import JOURNAL, Finished, Journal, read_journal
from schedules.errors import BadInput
from tests.runtime.fake_session import (
    PROMPTS,
    Sessions,
    expected,
    question,
    run,
    stop_at,
    token,
    tokens,
)


def saved(folder: Path) -> set[int]:
    """Sequences in the journal, which begins with the first."""
    path = folder / JOURNAL
    return {s.index for s in read_journal(path)[1]} if path.exists() else set()


def test_a_sequence_is_saved_before_the_next_step(tmp_path: Path) -> None:
    def check(batch: Batch, position: int) -> None:
        ended = {i for i in batch.indices if len(expected(PROMPTS[i], 6)) <= position}
        assert saved(tmp_path) & set(batch.indices) == ended

    assert len(run(tmp_path, Sessions(check)).records) == 3


def steps_of(number: int) -> int:
    """How many tokens a batch of three computes of each sequence."""
    return max(len(expected(p, 6)) for p in PROMPTS[3 * number : 3 * number + 3])


@pytest.mark.parametrize(
    ("number", "position"), [(n, at) for n in range(3) for at in range(steps_of(n))]
)
def test_an_interrupted_run_is_resumed(tmp_path: Path, number: int, position: int) -> None:
    first, second = Sessions(stop_at(number, position, KeyboardInterrupt())), Sessions()
    with pytest.raises(Interrupted) as error:
        run(tmp_path, first)
    assert str(error.value) == (
        f"interrupted with {len(saved(tmp_path))} of 7 sequences finished and saved; the same "
        "command with --resume goes on from there"
    )
    assert error.value.exit_code == 130
    assert all(session.closed == 1 for session in first.opened)
    found = run(tmp_path, second, resume=True)
    assert tokens(found) == [expected(p, 6) for p in PROMPTS]
    assert found.differing == 0
    assert [s.batch.number for s in second.opened] == list(range(number, 3))
    assert second.opened[0].batch == first.opened[-1].batch  # the same composition


def test_a_run_that_was_killed_after_its_last_token_computes_nothing(tmp_path: Path) -> None:
    run(tmp_path, Sessions())
    sessions = Sessions()
    assert tokens(run(tmp_path, sessions, resume=True)) == [expected(p, 6) for p in PROMPTS]
    assert sessions.opened == []


def test_resume_notices_other_tokens(tmp_path: Path) -> None:
    wrong = Finished(0, (token(PROMPTS[0], 0) + 1,), "stop")
    with Journal(tmp_path, question()) as journal:
        journal.add([wrong])
    found = run(tmp_path, Sessions(), resume=True)
    assert found.differing == 1
    assert found.sequences[0] == wrong  # what was promised stays


SCRIPT = """
import time
from pathlib import Path
from tests.runtime import fake_session

def hook(batch, position):
    if (batch.number, position) == (1, 3):
        print("there", flush=True)
        time.sleep(60)

fake_session.run(Path({folder!r}), fake_session.Sessions(hook))
"""


@pytest.mark.parametrize(
    ("how", "says"), [(signal.SIGKILL, ""), (signal.SIGINT, "runtime.generate.Interrupted: inter")]
)
def test_a_killed_process_leaves_what_is_finished(tmp_path: Path, how, says: str) -> None:
    command = [sys.executable, "-c", SCRIPT.format(folder=str(tmp_path))]
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | root, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        with pytest.raises(BadInput, match=f"is in use by process {process.pid};"):
            run(tmp_path, Sessions(), resume=True)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    assert says in err
    ended = {i for i in range(7) if i < 3 or (i < 6 and len(expected(PROMPTS[i], 6)) <= 3)}
    assert saved(tmp_path) == ended
    sessions = Sessions()
    found = run(tmp_path, sessions, resume=True)
    assert tokens(found) == [expected(p, 6) for p in PROMPTS]
    assert [s.batch.number for s in sessions.opened] == [1, 2]
