"""Comparisons as plain values and as tables."""

import numpy as np

from sim import compare

SMALL = ("mixtral-8x7b", "gcp-t4-24c", "mtbench", 3, 8, 2)


def test_comparison_as_a_table():
    found = compare(["cgopipe", "gpu-only"], *SMALL)
    table = found.to_pandas()
    assert table["schedule"].tolist() == ["cgopipe", "gpu-only"]
    assert table["feasible"].tolist() == [True, False]
    assert np.isnan(table["throughput_tok_s"][1])
    page = found._repr_html_()
    assert page.startswith("<table")
    assert "gpu-only" in page
