"""The table of ablations: numbers by hand, and dashes where there are none."""

import io

from rich.console import Console

from reports.ablation_table import ablation_table

WHOLE = {
    "name": "none",
    "title": "as it is",
    "by_kind": {"throughput": {"median_abs_error": 0.077}, "memory": {"median_abs_error": 0.01}},
    "pairwise_order": 0.951,
    "n_changed": 0,
    "whole_error": None,
    "ablated_error": None,
}
LESS = WHOLE | {
    "name": "host",
    "title": "[bold]no host",
    "by_kind": {"throughput": {"median_abs_error": 0.2}},
    "pairwise_order": None,
    "n_changed": 12,
    "whole_error": 0.0899,
    "ablated_error": 1.5,
}


def lines(*studied):
    stream = io.StringIO()
    Console(file=stream, width=120).print(ablation_table(studied))
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_table():
    assert lines(WHOLE, LESS) == [
        "ablation throughput memory order rows with without what is different",
        "none 7.7 % 1.0 % 95.1 % 0 – – as it is",
        "host 20.0 % – – 12 9.0 % 150.0 % [bold]no host",
    ]


def test_kinds_that_no_ablation_has_are_left_out():
    assert lines(LESS)[0] == "ablation throughput order rows with without what is different"
