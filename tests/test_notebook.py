"""The notebook for a hosted GPU runs from top to bottom, on the CPU with a tiny model."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from sim.hardware import load_hardware

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
HOSTED = ROOT / "docs" / "notebooks" / "hosted-t4.ipynb"
HOST = "tested-host"
SET = f'HOST, EFFORT, BATCH = "{HOST}", "quick", 8'
"""What the test sets, in a cell behind that of the parameters."""


def cells(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def printed(cell: Any) -> str:
    """What a cell wrote to standard output and standard error."""
    return "".join(out["text"] for out in cell["outputs"] if out["output_type"] == "stream")


def shown(cell: Any, kind: str) -> list[str]:
    """What a cell displayed as this kind of data."""
    return [out["data"][kind] for out in cell["outputs"] if kind in out.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_in_the_repository_are_valid_and_have_no_outputs(path: Path) -> None:
    notebook = cells(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 1
    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []


def test_one_cell_has_the_parameters() -> None:
    tagged = [c for c in cells(HOSTED).cells if "parameters" in c.metadata.get("tags", [])]
    assert [c.cell_type for c in tagged] == ["code"]
    names: dict[str, Any] = {}
    exec(tagged[0].source, names)
    assert {"INSTALL_FROM", "HOST", "EFFORT", "CHECK", "BATCH"} <= names.keys()


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The notebook after its last cell, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = cells(HOSTED)
    at = next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(SET))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # the CPU's way, also where there is a GPU
        patch.setenv("PYTHONPATH", str(ROOT))
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(name, str(folder / ".jupyter"))
        client = NotebookClient(notebook, timeout=300, kernel_name="python3")
        client.execute(cwd=str(folder))
    return notebook, folder


@pytest.mark.slow
def test_the_notebook_calibrates_chooses_runs_and_compares(executed: tuple[Any, Path]) -> None:
    notebook, folder = executed
    code = {c.source: c for c in notebook.cells if c.cell_type == "code"}

    def cell(words: str) -> Any:
        return next(c for source, c in code.items() if words in source)

    assert "No GPU" in printed(cell("PROBE ="))
    assert f"{HOST}.toml" in printed(cell('"calibrate"'))
    assert "should be fastest" in printed(cell('"compare"'))
    assert "Memory of gpu" in printed(cell('"run", WINNER'))
    assert "measured" in printed(cell('"compare-run"'))
    (page,) = shown(cell('"compare-run"'), "text/html")
    assert page.startswith("<iframe srcdoc=")
    assert "plotly" in page.lower()
    assert (folder / f"{HOST}.zip").stat().st_size > 1000


@pytest.mark.slow
def test_the_preset_that_it_leaves_can_be_simulated(executed: tuple[Any, Path]) -> None:
    _, folder = executed
    preset = folder / "calibrations" / HOST / f"{HOST}.toml"
    machine, small = load_hardware(preset), load_hardware(folder / f"{HOST}-small.toml")
    assert machine.name == HOST
    assert small.gpu.memory.value < machine.gpu.memory.value
