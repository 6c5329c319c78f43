"""One command that checks and measures moelab on a CUDA machine, in less than ten minutes.

Run `make gpu`, or `python benchmarks/gpu.py` with the repository on PYTHONPATH; `--help` lists what
can be chosen. It needs no network and installs nothing. Everything lands in the folder of the
environment variable OUT, or in ./gpu-results:

results.json       environment, micro-benchmarks, schedules, goals, and what became of each stage
tests.txt          output of the tests that need a GPU
timelines.parquet  tasks of all schedules, with columns schedule, memory and budget_bytes
trace.json.gz      the profiler's trace of one decode step of CGOPipe, if it is small
log.txt            what the stages print

Each stage is a process of its own with a time limit. What it has found is written at once; one that
fails is noted, and the next one begins. `--smoke` runs all of it on the CPU with tiny sizes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS, RESULTS, LOG = "tests.txt", "results.json", "log.txt"
LIMIT_S = 560.0
SHARES = {"tests": 0.3, "micro": 0.18, "schedules": 1.0}  # of the time that is left, at most
RESTARTS = 2  # of the schedules, after a process that died
GRACE_S = 15.0  # after which a stage that is late is killed
LAYERS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """All stages, or in a child process one of them; returns the exit status."""
    asked = parser().parse_args(arguments)
    if asked.stage:
        from gpu_stages import child

        return child(asked)
    if not asked.smoke and not cuda():
        print("benchmarks/gpu.py needs a CUDA device; --smoke tries it out without one")
        return 2
    return Parent(asked).run()


def parser() -> argparse.ArgumentParser:
    """The command line; `--stage` is for the processes that it starts."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu-results"))
    made.add_argument("--limit-s", type=float, default=LIMIT_S, help="for everything")
    made.add_argument(
        "--host-memory", type=float, metavar="GIB", help="default: 3/4 of what is there"
    )
    made.add_argument("--layers", type=int, default=LAYERS, help="of Mixtral 8x7B, at most")
    made.add_argument("--prompts", type=int, default=512)
    made.add_argument("--gen-len", type=int, default=6)
    made.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    made.add_argument("--smoke", action="store_true", help="tiny, on the CPU")
    made.add_argument("--stages", nargs="+", choices=SHARES, default=list(SHARES))
    made.add_argument("--stage", choices=["micro", "schedules"], help=argparse.SUPPRESS)
    return made


def cuda() -> bool:
    """Whether there is a CUDA device."""
    import torch

    return torch.cuda.is_available()


class Parent:
    """Starts the stages one after the other, and keeps results.json up to date."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.out: Path = asked.out
        self.deadline = time.monotonic() + asked.limit_s
        self.found: dict[str, Any] = {"stages": []}

    def run(self) -> int:
        self.out.mkdir(parents=True, exist_ok=True)
        for old in (RESULTS, TESTS, LOG, "timelines.parquet", "trace.json.gz"):
            (self.out / old).unlink(missing_ok=True)
        self.found |= self._where()
        self.write()
        stages: Mapping[str, Callable[[float], str]] = {
            "tests": self.tests,
            "micro": self.micro,
            "schedules": self.schedules,
        }
        for name in self.asked.stages:
            self.stage(name, stages[name])
        summary(self.found)
        print(f"results are in {self.out}")
        return int(any(s["status"] != "done" for s in self.found["stages"]))

    def stage(self, name: str, run: Callable[[float], str]) -> None:
        """One stage, with its share of the time that is left."""
        left = self.deadline - time.monotonic()
        limit = left * SHARES[name] if name != self.asked.stages[-1] else left - GRACE_S
        entry: dict[str, Any] = {"stage": name, "limit_s": limit}
        start = time.monotonic()
        print(f"{name}: at most {limit:.0f} s", flush=True)
        try:
            entry["status"] = run(limit) if limit > 0 else "no time left"
        except Exception:
            entry |= {"status": "failed", "error": traceback.format_exc()}
        entry["seconds"] = time.monotonic() - start
        print(f"{name}: {entry['status']}, {entry['seconds']:.0f} s", flush=True)
        self.found["stages"].append(entry)
        self.write()

    def write(self) -> None:
        """results.json as it is now."""
        partial = self.out / f"{RESULTS}.partial"
        partial.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        partial.replace(self.out / RESULTS)

    def _where(self) -> dict[str, Any]:
        from runtime.environment import provenance

        device = "cpu" if self.asked.smoke else "cuda"
        asked = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.asked).items()}
        return {"provenance": provenance(0, asked, device)}

    # -- the stages -----------------------------------------------------------------------------

    def tests(self, limit_s: float) -> str:
        """The tests marked `gpu`; none may fail."""
        where = "tests/runtime/test_cuda.py" if self.asked.smoke else "tests/runtime"
        options = ["-m", "gpu", "-q", "-rfE", "--durations=15", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, where]
        status = self.process(command, limit_s, self.out / TESTS)
        lines = (self.out / TESTS).read_text(errors="replace").strip().splitlines()
        counts = re.findall(
            r"(\d+) (passed|failed|skipped|errors?|deselected)", (lines or [""])[-1]
        )
        self.found["tests"] = {name: int(count) for count, name in counts}
        return status

    def micro(self, limit_s: float) -> str:
        """The micro-benchmarks."""
        status, rows = self.journaled("micro", limit_s)
        self.found["micro"] = rows
        return status

    def schedules(self, limit_s: float) -> str:
        """The schedules; a process that dies is started again, without what it died of."""
        from gpu_rows import goals

        end = time.monotonic() + limit_s
        for _ in range(1 + RESTARTS):
            status, rows = self.journaled("schedules", end - time.monotonic(), keep=True)
            if status in ("done", "time limit"):
                break
        (self.out / "part-schedules.jsonl").unlink(missing_ok=True)
        self.found["schedules"] = [row for row in rows if "begun" not in row]
        self.found["goals"] = goals(rows)
        if status == "done" and any("error" in row for row in rows):
            return "failed"
        return status

    def journaled(self, stage: str, limit_s: float, keep: bool = False) -> tuple[str, list[Any]]:
        """A stage in a process that writes rows; its status, and the rows that it came to."""
        from gpu_rows import read_rows

        path = self.out / f"part-{stage}.jsonl"
        own = [f"--{k.replace('_', '-')}={v}" for k, v in self._passed_on().items()]
        flags = ["--smoke"] if self.asked.smoke else []
        command = [sys.executable, __file__, f"--stage={stage}", f"--limit-s={limit_s}"]
        status = self.process([*command, *own, *flags], limit_s + GRACE_S, self.out / LOG)
        rows = read_rows(path)
        if not keep:
            path.unlink(missing_ok=True)
        return status, rows

    def _passed_on(self) -> dict[str, Any]:
        names = ("out", "host_memory", "layers", "prompts", "gen_len", "dtype")
        values = {name: getattr(self.asked, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def process(self, command: Sequence[str], limit_s: float, log: Path) -> str:
        """Run a command; `done`, `exit N` or `time limit`."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        with log.open("a", encoding="utf-8") as output:
            started = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                code = started.wait(limit_s)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
                return "time limit"
        return "done" if code == 0 else f"exit {code}"


# -- what is printed --------------------------------------------------------------------------


def summary(found: Mapping[str, Any]) -> None:
    """The schedules, the tests and the goals, in some lines."""
    print(f"\n{'system':27} {'memory':12} {'budget':>9} {'N/mu':>10} {'r_w':>5} {'tokens/s':>9} "
          f"{'decode':>9} {'of bound':>9} {'peak':>9} {'predicted':>9}")  # fmt: skip
    for row in found.get("schedules", []):
        if "tokens_per_s" in row:
            print(_line(row))
        elif "system" in row and "tokens_per_s" not in row and "trace_bytes" not in row:
            reason = next((row[k] for k in ("skipped", "infeasible", "error") if k in row), "")
            print(f"{row['system']:27} {row['memory']:12} {_size(row['budget_bytes']):>9} {reason}")
    print(
        "tests:", ", ".join(f"{n} {name}" for name, n in found.get("tests", {}).items()) or "none"
    )
    for goal in found.get("goals", []):
        where = f"CGOPipe, {goal['memory']}, {_size(goal['budget_bytes'])}"
        print(f"{where}: {_goal(goal['bound_share'], goal['bound_met'], '.1%')} of the bound "
              f"(goal 90 %), {_goal(goal['times_accelerate'], goal['accelerate_met'], '.2f')} "
              "times accelerate (goal 5)")  # fmt: skip


def _line(row: Mapping[str, Any]) -> str:
    policy, share = row["policy"], row.get("decode_bound_share")
    batch = f"{policy['N']}/{policy['mu']}"
    return (
        f"{row['system']:27} {row['memory']:12} {_size(row['budget_bytes']):>9} {batch:>10} "
        f"{policy.get('r_w', 0):5.2f} {row['tokens_per_s']:9.1f} "
        f"{row['decode_tokens_per_s'] or 0:9.1f} {'' if share is None else f'{share:.1%}':>9} "
        f"{_size(row['peak_bytes']):>9} {_size(row['predicted_bytes']):>9}"
    )


def _size(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 2**30:.2f} GiB" if size > 1e8 else f"{size / 1e6:.1f} MB"


def _goal(value: float | None, met: bool | None, form: str) -> str:
    if value is None:
        return "not measured"
    return f"{value:{form}} ({'met' if met else 'NOT met'})"


if __name__ == "__main__":
    sys.exit(main())
