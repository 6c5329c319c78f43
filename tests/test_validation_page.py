"""docs/validation.md says what the simulator says: its own rows, and a sample of fresh ones."""

import re
from pathlib import Path

import pytest

from sim.accuracy import Checked, summary
from sim.published import read_published
from sim.validate import check_row

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
FIGURES = {figure.id: figure for figure in read_published()}
KINDS = {
    "throughput": "throughput",
    "latencies and operation times": "latency",
    "peak memory": "memory",
}
SAMPLE = (
    "moe-lightning/S1/cgopipe-padded/32",
    "moe-lightning/S6/zero-inference/32",
    "moe-lightning/S8/cgopipe/32",
    "pre-gated/moe_block_ms/switch-base-8/on-demand/b8",
    "pre-gated/peak_gpu_gb/switch-base-128/pre-gated/b1",
    "flexgen/opt-30b/512",
)


def table(first: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    lines = PAGE[PAGE.index(f"| {first} |") :].splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:end]]


def share(cell: str) -> float:
    return float(cell.removesuffix(" %")) / 100


ROWS = {cells[0]: cells for cells in table("id")}


def test_every_published_figure_is_there():
    assert list(ROWS) == list(FIGURES)
    for name, (_, published, simulated, error) in ROWS.items():
        assert float(published) == pytest.approx(FIGURES[name].value, rel=1e-3)
        assert float(simulated) / float(published) - 1 == pytest.approx(
            float(error.rstrip("%")) / 100, abs=2e-3
        )


def test_its_summary_is_that_of_its_rows():
    checked = [Checked(FIGURES[name], float(cells[2])) for name, cells in ROWS.items()]
    found = summary(checked)["by_kind"]
    for name, n, median, _, p90, _ in table("kind"):
        figures = found[KINDS[name]]
        assert int(n) == figures["n"]
        assert share(median) == pytest.approx(figures["median_abs_error"], abs=1e-3)
        assert share(p90) == pytest.approx(figures["p90_abs_error"], abs=2e-3)


def test_aims_are_met():
    for name, _, median, aim, _, _ in table("kind"):
        assert share(median) <= share(aim), name
    order = re.search(r"([\d.]+ %) of the pairs", PAGE)
    assert order is not None
    assert share(order[1]) >= 0.95


@pytest.mark.parametrize("name", [*SAMPLE, *(n for n in FIGURES if "figure9" in n)])
def test_the_simulator_still_says_so(name):
    simulated = check_row(FIGURES[name]).simulated
    assert simulated is not None
    assert f"{simulated:.4g}" == ROWS[name][2]


def test_ablations_start_from_the_same_errors():
    whole, *ablated = table("`--ablate`")
    assert whole[0] == "`none`"
    assert whole[2:5] == [cells[2] for cells in table("kind")]
    assert {cells[0] for cells in ablated} >= {
        "`pinning`", "`contention`", "`host`", "`tiles`", "`barriers`", "`hrm`",
    }  # fmt: skip


def test_its_picture_is_there():
    (name,) = re.findall(r"\]\((images/.*?\.png)\)", PAGE)
    assert (ROOT / "docs" / name).read_bytes().startswith(b"\x89PNG")
