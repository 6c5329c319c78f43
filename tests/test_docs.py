"""The documentation runs: what README.md and docs/*.md show is what happens.

The language of a fence says what is done with it. A page runs from top to bottom in a folder of
its own; its Python shares one namespace.

    ```bash       is run and must succeed
    ```console    what follows `$ ` is run, and the lines below it must be what it prints
    ```python     is run and must not raise
    ```pycon      is run as a doctest

A comment on the line before a fence changes that:

    <!-- file: NAME -->       the fence is the content of that file, for what comes later
    <!-- not run: REASON -->  the fence is only shown

In output, numbers match to the digits shown (3.14 matches 3.14159), the amount of white space does
not count, and a line `...` stands for any lines. Fences of other languages are only shown.
"""

import doctest
import importlib
import io
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moelab.cli import main
from schedules.schedule import schedules

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"bash", "console", "python", "pycon", "text", "toml", "csv", "json"}
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>file|not run): (?P<note>.+?) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"(?<![\w.])([+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?)(?!\w)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND_OF_DEMO = re.compile(r"^\t\$\(VENV\)/bin/(moelab (?:.*\\\n)*.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page; `mark` is `file`, `not run` or empty."""

    language: str
    text: str
    line: int
    mark: str = ""
    note: str = ""


def fences(page: Path) -> Iterator[Fence]:
    """The fences of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Fence(
            found["language"], found["text"], line, found["mark"] or "", found["note"] or ""
        )


# -- running ----------------------------------------------------------------------------------


def run_command(command: str) -> tuple[int, str]:
    """Exit status and all output of a shell command; `moelab` runs in this process."""
    name, *arguments = shlex.split(command, comments=True)
    if (name, *arguments) == ("make", "demo"):
        recipe = COMMAND_OF_DEMO.search((ROOT / "Makefile").read_text(encoding="utf-8"))
        assert recipe, "the Makefile has no demo"
        name, *arguments = shlex.split(recipe[1].replace("\\\n", " "))
    if name == "pip":
        return install_entry_points()
    assert name == "moelab", f"not a command that a page may run: {command}"
    output, status = io.StringIO(), 0
    with redirect_stdout(output), redirect_stderr(output):
        try:
            main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, output.getvalue().replace(f"{Path.cwd()}/", "")


def install_entry_points() -> tuple[int, str]:
    """What `pip install --editable .` leaves behind as far as schedules are concerned."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = Path(f"{project['name'].replace('-', '_')}-0.dist-info")
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("".join(lines))
    importlib.invalidate_caches()
    schedules.cache_clear()
    return 0, ""


def run_console(text: str) -> Iterator[tuple[str, str, str]]:
    """Command, expected and actual output of each `$ ` in a fence."""
    for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n", block)[0]
        yield command, block[len(command) :], run_command(command.replace("\\\n", " "))[1]


def run_doctest(text: str, names: dict[str, Any], where: str, line: int) -> None:
    """Run a session in `names`; raises `AssertionError` with the differences."""
    test = doctest.DocTestParser().get_doctest(text, names, where, where, line)
    report = io.StringIO()
    runner = doctest.DocTestRunner(checker=DigitsShown(), optionflags=doctest.ELLIPSIS)
    failed = runner.run(test, out=report.write, clear_globs=False).failed
    names |= test.globs
    assert not failed, report.getvalue()


class DigitsShown(doctest.OutputChecker):
    """Compares as `same_output` does."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got, optionflags) or same_output(want, got)


# -- comparing --------------------------------------------------------------------------------


def same_output(expected: str, actual: str) -> bool:
    """Whether output is as shown; a line `...` stands for any lines."""
    want, got = (
        [line for line in text.splitlines() if line.strip()] for text in (expected, actual)
    )
    return same_lines(want, got)


def same_lines(want: list[str], got: list[str]) -> bool:
    if not want:
        return not got
    if want[0].strip() == "...":
        return any(same_lines(want[1:], got[i:]) for i in range(len(got) + 1))
    return bool(got) and same_line(want[0], got[0]) and same_lines(want[1:], got[1:])


def same_line(want: str, got: str) -> bool:
    """Whether the words are equal and the numbers equal to the digits of `want`."""
    a, b = (NUMBER.split(" ".join(line.split())) for line in (want, got))
    return len(a) == len(b) and all(
        same_number(x, y) if i % 2 else x.strip() == y.strip()
        for i, (x, y) in enumerate(zip(a, b, strict=True))
    )


def same_number(want: str, got: str) -> bool:
    """
    >>> same_number("3.14", "3.14159"), same_number("3.15", "3.14159"), same_number("1,200", "1200")
    (True, False, True)
    """
    mantissa, _, exponent = want.replace(",", "").partition("e")
    digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
    shown, true = float(want.replace(",", "")), float(got.replace(",", ""))
    return abs(shown - true) <= 0.5 * 10.0**-digits * (1 + 1e-9)


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("cgopipe  5.64 gpu 99.8 %", "cgopipe 5.6394 gpu 99.81 %", True),
        ("cgopipe 5.64", "cgopipe 5.65", False),
        ("cgopipe 5.64", "flexgen 5.64", False),
        ("cgopipe 5.64", "cgopipe 5.64 more", False),
        ("cgopipe 5.64", "cgopipe 5.64\nmore", False),
        ("first\n...\nlast", "first\n1\n2\nlast", True),
        ("first\n...\nlast", "first\n1\n2\n", False),
        ("gcp-t4-24c", "gcp-t4-25c", False),
        ("pool holds 15.50 GB (x)", "pool holds 15.5 GB (x)", True),
        ("-3 %", "+3 %", False),
    ],
)
def test_output_is_compared_to_the_digits_shown(expected: str, actual: str, same: bool) -> None:
    assert same_output(expected, actual) == same


# -- the pages --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to run a page in; modules and schedules of the page are forgotten after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    schedules.cache_clear()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for fence in fences(page):
        where = f"{page.name}, line {fence.line}"
        assert fence.language in LANGUAGES, f"{where}: unknown language '{fence.language}'"
        if fence.mark == "file":
            Path(fence.note).parent.mkdir(parents=True, exist_ok=True)
            Path(fence.note).write_text(fence.text, encoding="utf-8")
        elif not fence.mark:
            run_fence(fence, names, where)


def run_fence(fence: Fence, names: dict[str, Any], where: str) -> None:
    if fence.language == "bash":
        for command in fence.text.replace("\\\n", " ").splitlines():
            if command.split("#")[0].strip():
                status, output = run_command(command)
                assert status == 0, f"{where}: {command}\n{output}"
    elif fence.language == "console":
        for command, expected, actual in run_console(fence.text):
            assert same_output(expected, actual), f"{where}: {command} prints now\n{actual}"
    elif fence.language == "python":
        with redirect_stdout(io.StringIO()):
            exec(compile(fence.text, where, "exec"), names)
    elif fence.language == "pycon":
        run_doctest(fence.text, names, where, fence.line)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name}: '{target}' does not exist"
        assert not anchor or anchor in headings(there), f"{page.name}: '{target}' has no heading"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= {t.partition("#")[0] for t in linked}


def test_every_schedule_and_knob_is_described() -> None:
    text = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    titles = headings(ROOT / "docs" / "schedules.md")
    rows = (ROOT / "docs" / "expert-schedules.md").read_text(encoding="utf-8").splitlines()
    titles |= {row.split("`")[1] for row in rows if row.startswith("| `")}  # with all they model
    built_in = {n: k for n, k in schedules().items() if k.__module__.startswith("schedules.")}
    assert set(built_in) <= titles
    knobs = {knob for kind in built_in.values() for knob in kind.knobs}
    assert {knob for knob in knobs if f"`{knob}`" not in text} == set()


ONE_FIGURE = """\
id,source,metric,value,schedule,model,hardware,prompt_len,gen_len,batch_size,micro_batch
one,a paper,throughput_tok_s,1,cgopipe,mixtral-8x7b,gcp-t4-24c,64,2,8,8
"""


@pytest.mark.parametrize(
    "command",
    [
        "list models",
        "list hardware",
        "list workloads",
        "list schedules",
        "compare cgopipe gpu-only -m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 2 -N 8 -u 8",
        "validate --published one.csv",
    ],
)
def test_every_key_of_the_json_is_described(command: str, folder: Path) -> None:
    (folder / "one.csv").write_text(ONE_FIGURE)
    status, output = run_command(f"moelab {command} --json -")
    assert status == 0, output
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert {key for key in keys(json.loads(output)) if f"`{key}`" not in text} == set()


def keys(value: Any) -> set[str]:
    """All keys of nested JSON, without those that are names of streams, pools, sources, metrics."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    by_stream = {"utilization", "busy_s", "idle_s", "peak_memory_bytes", "capacity_bytes"}
    by_stream |= {"moved_bytes_per_token"}  # by operation
    found = set(value)
    for key, item in value.items():
        if key in ("by_source", "by_metric"):
            found |= keys(list(item.values()))
        elif key not in by_stream:
            found |= keys(item)
    return found
