"""What the program says of itself: --help, --version, no arguments, wrong options."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer

import moelab
from moelab.cli import app

COMMANDS = typer.main.get_command(app).commands


def parameters():
    return [(name, p) for name, command in COMMANDS.items() for p in command.params]


def words(text: str) -> str:
    """A help page without its frames and line breaks."""
    return " ".join(text.replace("│", " ").split())


def test_commands():
    assert list(COMMANDS) == [
        "list",
        "simulate",
        "compare",
        "validate",
        "run",
        "replay",
        "calibrate",
        "compare-run",
        "crossover",
        "explain",
        "optimal",
    ]


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_all_its_options(cli, command, flag):
    end = cli(command, flag)
    assert (end.code, end.err) == (0, "")
    assert re.match(rf"Usage: .*\b{command} \[OPTIONS\]", words(end.out))
    assert words(COMMANDS[command].help.split("\n\n")[0]) in words(end.out)
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name == "option":
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert name in end.out
        else:
            assert (parameter.metavar or parameter.name) in end.out


@pytest.mark.parametrize(("command", "parameter"), parameters())
def test_every_parameter_says_what_it_is(cli, command, parameter):
    sentence = parameter.help
    assert sentence
    assert sentence[0].isupper() or sentence[0] == "-"
    assert sentence.rstrip("`")[-1] in ".;)"
    first = sentence.replace("`", "").split()[:2]
    assert " ".join(first) in words(cli(command, "--help").out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_sentence_at_least(command):
    text = COMMANDS[command].help
    assert text[0].isupper()
    assert text.rstrip()[-1] in ".?"
    assert len(text.split()) > 5


def test_help_of_the_program_names_the_commands_and_a_first_step(cli):
    end = cli("--help")
    assert end.code == 0
    for name, command in COMMANDS.items():
        assert name in end.out
        assert words(command.help)[:30] in words(end.out)
    assert "moelab compare --model mixtral-8x7b --hardware gcp-t4-24c" in words(end.out)
    assert "Exit code 2" in end.out


def test_the_first_step_of_the_help_is_a_question_that_can_be_asked(cli):
    """Its names exist; with one schedule it takes no time."""
    text = words(cli("--help").out)
    start = text.index("moelab compare --model")
    line = text[start : text.index("page.html", start) + len("page.html")]
    end = cli(*line.split()[1:], "accelerate", "--gen-len", 2)
    assert end.code == 0
    assert end.written == {"page.html"}


def test_without_arguments_it_helps(cli):
    end = cli()
    assert "Usage" in end.out + end.err
    assert "simulate" in end.out + end.err
    assert end.written == set()


def test_version(cli):
    end = cli("--version")
    assert (end.code, end.err) == (0, "")
    assert end.out == f"moelab {version('moelab')}\n"
    assert moelab.__version__ == version("moelab")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["simulat"], "simulat"),
        (["list"], "what"),
        (["list", "gpus"], "gpus"),
        (["simulate"], "schedule"),
        (["simulate", "cgopipe"], "--model"),
        (["simulate", "cgopipe", "--gen-length", "3"], "--gen-length"),
        (["compare", "--model", "mixtral-8x7b"], "--hardware"),
        (["compare", "--gen-len", "many"], "--gen-len"),
        (["compare", "--gen-len", "nan"], "--gen-len"),
        (["compare", "--seed", "1.5"], "--seed"),
        (["validate", "--json"], "--json"),
        (["run"], "schedule"),
        (["run", "cgopipe", "--out", "o"], "--gpu-memory"),
        (["run", "cgopipe", "--gpu-memory", "1GiB"], "--out"),
        (["run", "cgopipe", "--device", "tpu"], "tpu"),
        (["run", "cgopipe", "--dtype", "int8"], "int8"),
    ],
)
def test_wrong_usage(cli, arguments, named):
    end = cli(*arguments)
    assert end.code == 2
    assert named in end.err
    assert "Traceback" not in end.err
    assert (end.out, end.written) == ("", set())


# -- as a program of its own -----------------------------------------------------------------------


def program(*arguments, cwd=None):
    command = [sys.executable, "-m", "moelab", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_python_m_moelab():
    end = program("--version")
    assert (end.returncode, end.stdout, end.stderr) == (0, f"moelab {version('moelab')}\n", "")


def test_a_mistake_is_one_line_on_standard_error(tmp_path):
    wrong = ["simulate", "cgopip", "-m", "x", "-H", "y", "-w", "z", "--json", "-"]
    end = program(*wrong, cwd=tmp_path)
    assert (end.returncode, end.stdout) == (2, "")
    assert end.stderr.startswith("moelab: no model is named 'x'")
    assert end.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_leaves_torch_alone(tmp_path):
    code = (
        "import sys; from moelab.cli import main\n"
        "try: main(['list', 'schedules'])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (end.returncode, end.stderr) == (0, "False\n")
