"""The repository as a whole: one version, no torch, a complete wheel, nothing big or private."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import moelab

ROOT = Path(__file__).parents[1]
PACKAGES = ("schedules", "sim", "runtime", "reports", "moelab")
WITHOUT_TORCH = ("schedules", "sim", "reports", "moelab")
DATA_SUFFIXES = {".toml", ".csv", ".html", ".md", ".parquet"}
MAX_FILE_BYTES = 1_500_000
HOME_PATH = re.compile(rb"(?<![\w.])/(?:home|Users|root)/\w")

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
print("torch" in sys.modules)
"""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def repository_files() -> list[Path]:
    """Every file that is tracked or would be with `git add .`; skips outside a checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def package_files() -> set[str]:
    """Names relative to the root of all modules and data files of the packages."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in DATA_SUFFIXES | {".py"}
    }


def version_after(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    assert found, f"no line matches {pattern}"
    return found[1]


def test_one_version_everywhere() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert moelab.__version__ == version
    assert version_after(r"^version: (\S+)$", read("CITATION.cff")) == version
    assert version_after(r"^## (\S+)", read("CHANGELOG.md")) == version


def test_citation_and_changelog_name_the_same_day() -> None:
    released = version_after(r"^date-released: (\S+)$", read("CITATION.cff"))
    assert version_after(r"^## \S+ \((\S+)\)$", read("CHANGELOG.md")) == released


def test_no_module_outside_the_runtime_imports_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()  # so that an import inside `try` is caught as well
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", IMPORT_EVERYTHING, *WITHOUT_TORCH]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "False\n"


SIMULATE = """
import sys
from moelab.cli import app
app(sys.argv[1:], standalone_mode=False)
print(*sorted(sys.modules), file=sys.stderr)
"""
SLOW_TO_IMPORT = {
    "dask",
    "networkx",
    "pandas",
    "plotly",
    "pyarrow",
    "scipy.optimize",
    "simpy",
    "torch",
    "transformers",
}


@pytest.mark.parametrize("command", [["simulate", "cgopipe"], ["compare", "cgopipe", "flexgen"]])
def test_who_asks_for_no_report_waits_for_nothing_that_makes_one(
    command: list[str], tmp_path: Path
) -> None:
    words = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 4 -N 8 -u 4 --json result.json"
    run = [sys.executable, "-c", SIMULATE, *command, *words.split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "cgopipe" in result.stdout
    assert (tmp_path / "result.json").is_file()
    imported = set(result.stderr.split())
    assert "sim.generation" in imported
    assert imported & SLOW_TO_IMPORT == set()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source")
    no_caches = shutil.ignore_patterns("__pycache__")
    for folder in (*PACKAGES, "tests", "docs"):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, source / folder, ignore=no_caches)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    return zipfile.ZipFile(next((source / "dist").glob("moelab-*.whl")))


def test_wheel_holds_every_module_and_preset_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == package_files()
    assert any(name.startswith("schedules/presets/models/") for name in packed)
    assert any(name.startswith("sim/presets/") for name in packed)


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "moelab = moelab.cli:main" in wheel.read(name).decode()


def test_constraints_are_exact_and_come_from_no_particular_place() -> None:
    lines = [line for line in read("constraints.txt").splitlines() if line and line[0] != "#"]
    exact = re.compile(r'[a-z0-9-]+==[0-9][\w.]*( ; python_version (<|>=) "3\.\d+")?')
    assert [line for line in lines if not exact.fullmatch(line)] == []


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[\[><=]", line)[0] for group in groups for line in group}
    names -= {project["name"]}  # the tests need the runtime's extra
    assert names <= {line.split("==")[0] for line in read("constraints.txt").splitlines()}


def test_no_file_is_large() -> None:
    sizes = {str(path): path.stat().st_size for path in repository_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def test_no_file_names_somebodys_home() -> None:
    named = {str(path): HOME_PATH.search(path.read_bytes()) for path in repository_files()}
    assert {name: found[0] for name, found in named.items() if found} == {}
