"""moelab run that does not come to its end: exit codes, what is left, and how it is resumed."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.journal import read_journal
from tests.moelab.runs import HERE, RESULTS, UNFINISHED, files, lines, result, tokens, write_prompts
from tests.runtime.faults import Fault, lanes

ROOT = Path(__file__).parents[2]
GEN_LEN = 8  # with a pause in each, more than a minute of decoding
PATIENCE_S = 240.0
WARM = ["--temperature", "0.9", "--seed", "3"]


@pytest.fixture
def words(model, tmp_path):
    """The question: three batches."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    asked = ["--checkpoint", model, "--prompts", prompts, "--gen-len", GEN_LEN, "--ignore-eos"]
    return ["run", "cgopipe", *map(str, asked), "-N", "2", *WARM, *HERE.split()]


@pytest.fixture
def run(cli, words):
    """`moelab run` with that question."""

    def run(*more, out="out"):
        end = cli(*words, "--out", out, *more)
        assert lanes() == []
        return end

    return run


@pytest.fixture
def whole(run):
    """The tokens of a run that nothing stops."""
    assert run(out="whole").code == 0
    return lines("whole")


def saved(folder="out"):
    """Sequences of the journal."""
    return {s.index for s in read_journal(Path(folder) / UNFINISHED)[1]}


def break_second_batch(monkeypatch, error):
    """An error in the middle of decoding, when the first batch is saved."""
    fault = Fault("cpu_attention", 1, 3, error)
    fault.install(monkeypatch, lambda: Path("out", UNFINISHED).exists())


# -- a run that fails ------------------------------------------------------------------------------


def test_a_worker_that_fails_in_the_first_batch_leaves_nothing(run, monkeypatch):
    Fault("post_attention", 1, 2, RuntimeError("boom")).install(monkeypatch)
    end = run("--json", "r.json")
    assert (end.code, end.out) == (1, "")
    assert end.err == "moelab: task 'post_attention' (layer 1, step 2) failed: RuntimeError: boom\n"
    assert end.before == end.after


def test_a_worker_that_fails_later_leaves_what_is_finished(run, whole, monkeypatch):
    with monkeypatch.context() as patch:
        break_second_batch(patch, RuntimeError("boom"))
        end = run()
    assert (end.code, end.out) == (1, "")
    assert end.err == "moelab: task 'cpu_attention' (layer 1, step 3) failed: RuntimeError: boom\n"
    assert files("out") == {UNFINISHED, "parts"}
    assert saved() == {0, 1}
    assert "holds an unfinished run (2 of 5 sequences); add --resume to go on" in run().mistake
    assert (
        "holds a run of another question (gen_len was 8" in run("--resume", "--gen-len=9").mistake
    )
    assert "the prompts are not the same" in run("--resume", "--prompts", other_prompts()).mistake
    assert run("--resume").code == 0
    assert files("out") == RESULTS
    assert lines("out") == whole
    assert result("out")["measured"]["measured_sequences"] == 5


def other_prompts():
    """Another file with as many prompts."""
    text = Path("prompts.jsonl").read_text()
    Path("others.jsonl").write_text(text.replace("[", "[5, "))
    return "others.jsonl"


def test_weights_that_are_not_checked(cli, model, words, tmp_path):
    """A NaN that --no-check-weights lets in is met at the first token that it reaches."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    (tmp_path / "nan").mkdir()
    save_file(tensors, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    (tmp_path / "nan" / "config.json").write_text((model / "config.json").read_text())
    end = cli(*words, "--checkpoint", tmp_path / "nan", "--no-check-weights", "--out", "out")
    assert end.code == 1
    assert end.err.startswith("moelab: the logits of prompt 0 (counted from 0) for generated token")
    assert end.before == end.after


@pytest.mark.parametrize("source", ["Checkpoint", "RandomWeights"])
@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 B")],
)
def test_no_memory_for_the_weights(cli, run, model, monkeypatch, source, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(f"runtime.inputs.{source}", full)
    if source == "Checkpoint":
        end = run()
    else:
        drawn = ["--random-weights", model / "config.json", "-w", "random-5-2", "-N", 2]
        end = cli("run", "cgopipe", *drawn, *HERE.split(), "--out", "out")
    assert end.code == 1
    assert end.err == (
        "moelab: the machine's memory was full while loading the model; nothing was written\n"
    )
    assert end.before == end.after


def test_no_memory_while_generating(run, monkeypatch):
    with monkeypatch.context() as patch:
        break_second_batch(patch, MemoryError())
        end = run()
    assert end.err == "moelab: task 'cpu_attention' (layer 1, step 3) failed: MemoryError\n"
    assert saved() == {0, 1}


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_while_sequences_are_saved(run, whole, monkeypatch, after):
    """The journal's header, its first and its second lines."""
    real, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file)

    with monkeypatch.context() as patch:
        patch.setattr("runtime.journal.os.fsync", full)
        end = run()
    assert (end.code, end.out) == (1, "")
    assert end.err.startswith("moelab: cannot write 'out/tokens.partial.jsonl': No space left on d")
    assert files("out") <= {UNFINISHED, "parts"}
    assert run("--resume").code == 0
    assert lines("out") == whole


@pytest.mark.parametrize("name", ["tokens.jsonl", "timeline.parquet", "result.json"])
def test_a_full_disk_while_the_results_are_written(run, whole, monkeypatch, name):
    real = Path.replace

    def full(self, target):
        if Path(target) == Path("out", name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        end = run()
    assert end.code == 1
    assert end.err == f"moelab: cannot write 'out/{name}': No space left on device\n"
    assert not any(held.endswith(".partial") for held in files("out"))
    assert run("--resume").code == 0
    assert (files("out"), lines("out")) == (RESULTS, whole)


# -- a run that is interrupted ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "said", "left"),
    [
        (
            "runtime.inputs.check_finite",
            "interrupted while loading the model; nothing was written",
            set(),
        ),
        (
            "runtime.run.measured_result",
            "interrupted while writing the results; the same command with --resume does it",
            {UNFINISHED, "parts"},
        ),
        (
            "runtime.run.transformers_reference",
            "interrupted while verifying; all but verification.json is written",
            RESULTS,
        ),
    ],
)
def test_an_interrupt_before_or_after_generating(run, monkeypatch, where, said, left):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    end = run("--verify", "--temperature", 0)
    assert (end.code, end.out, end.err) == (130, "", f"moelab: {said}\n")
    assert (files("out") if left else {n for n in end.after if n.startswith("out")}) == left


def test_an_interrupt_of_the_issuing_thread(run, whole, monkeypatch):
    with monkeypatch.context() as patch:
        fault = Fault("cpu_attention", 1, 3, KeyboardInterrupt(), issued=True)
        fault.install(patch, lambda: Path("out", UNFINISHED).exists())
        end = run()
    assert (end.code, end.out) == (130, "")
    assert end.err == (
        "moelab: interrupted with 2 of 5 sequences finished and saved; the same command with "
        "--resume goes on from there\n"
    )
    assert run("--resume").code == 0
    assert lines("out") == whole


def start(words, out):
    """`moelab run` as a process, which is met in the middle of decoding."""
    command = [sys.executable, "-m", "tests.moelab.slow_run", f"{out}/{UNFINISHED}", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, "--out", out], env=environment, **pipes)


@pytest.mark.slow
def test_a_process_that_is_stopped_or_killed(run, words, whole):
    """By Ctrl-C, and at once: afterwards the tokens are those of a run that nothing stopped."""
    signals = {"stopped": signal.SIGINT, "killed": signal.SIGKILL}
    started = {out: start(words, out) for out in signals}
    for out, process in started.items():
        try:
            assert process.stdout.readline() == "there\n", process.stderr.read()
            process.send_signal(signals[out])
            printed, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        assert printed == ""
        assert saved(out) == {0, 1}
        if out == "stopped":
            assert process.returncode == 130
            assert err == (
                "moelab: interrupted with 2 of 5 sequences finished and saved; the same command "
                "with --resume goes on from there\n"
            )
            assert files(out) == {UNFINISHED, "parts"}
        else:
            assert process.returncode == -signal.SIGKILL
            assert files(out) == {UNFINISHED, "parts", "run.lock"}
        assert run("--resume", out=out).code == 0
        assert (files(out), lines(out)) == (RESULTS, whole)
        assert result(out)["measured"]["measured_sequences"] == 5


def test_resume_says_when_other_tokens_come_out(run, monkeypatch):
    """As after a change of the machine; the tokens of before stay."""
    with monkeypatch.context() as patch:
        Fault("cpu_attention", 0, 7, RuntimeError("x")).install(
            patch, lambda: Path("out", UNFINISHED).exists()
        )
        run()
    path = Path("out", UNFINISHED)
    header, first, _ = path.read_text().splitlines()
    ids = saved_tokens(first)
    path.write_text(f"{header}\n{first.replace(ids, other(ids))}\n")
    end = run("--resume")
    assert end.code == 0
    assert "Resumed: other tokens came out this time for 1 of the sequences" in end.out
    assert ",".join(map(str, tokens("out")[0])) in other(ids)


def saved_tokens(line):
    """The list of token ids in a line of the journal."""
    return line[line.index("[") : line.index("]") + 1]


def other(ids):
    """The same with another first token."""
    first, comma, rest = ids.removeprefix("[").partition(",")
    return f"[{(int(first) + 1) % 160}{comma}{rest}"
