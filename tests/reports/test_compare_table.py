"""The tables of a comparison page."""

import re
from collections.abc import Callable
from typing import Any

from reports.compare_table import HEADERS, gpu_memory, provenance_html, results_html

Make = Callable[..., dict[str, Any]]


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows if "<td" in row]


def test_rows_by_rank_with_units_in_the_header(results: list[dict[str, Any]]) -> None:
    html = results_html(results)
    fast, slow, big = cells(html)
    assert fast == [
        *("fast", "50.0", "20.0", "80.0", "20.0", "1.25", "1.25×"),
        *("h2d 80 %", "13.1 of 15.8 GB", "504 / 36"),
    ]
    assert slow[0] == "slow"
    assert big == ["big", "Does not fit: pool &#x27;gpu&#x27; is too small", "–"]
    assert len(fast) == len(HEADERS) == html.count("<th ")


def test_only_the_winner_is_marked(results: list[dict[str, Any]]) -> None:
    assert results_html(results).count("class=best") == 1


def test_a_single_token_has_no_time_per_output_token(result: Make) -> None:
    assert cells(results_html([result("a", 5.0) | {"tpot_s": None}]))[0][5] == "–"


def test_gpu_memory_is_that_of_the_fullest_gpu(result: Make) -> None:
    one = result("a", 5.0)
    one["peak_memory_bytes"] = {"gpu0": 3e9, "gpu1": 5e9, "cpu": 99e9}
    one["capacity_bytes"] = {"gpu0": 10e9, "gpu1": 10e9, "cpu": 100e9}
    assert gpu_memory(one) == "5.0 of 10.0 GB"
    one["peak_memory_bytes"] = {"cpu": 1e9}
    assert gpu_memory(one) == "–"


def test_provenance_says_once_what_is_shared(results: list[dict[str, Any]]) -> None:
    results[0]["provenance"]["presets"]["padded"] = True
    results[1]["provenance"]["presets"]["padded"] = False
    html = provenance_html(results)
    assert html.startswith(
        '<p class="note">version=0.1.0 seed=7 model=tiny hardware=box routing.kind=uniform</p>'
    )
    policy = "N=504 mu=36 A_g=0 r_w=0.05"
    assert cells(html) == [
        ["slow", policy, "padded=True"],
        ["fast", policy, "padded=False"],
        ["big", "–", "–"],
    ]


def test_names_are_escaped(results: list[dict[str, Any]]) -> None:
    for one in results:
        one["schedule"] = "<script>"
    assert "<script>" not in results_html(results) + provenance_html(results)
