"""Tables and notes of pages: everything escaped, numbers apart from words."""

import pytest

from reports.html_parts import note, table, with_short_origin


def test_words_first_then_numbers():
    found = table(("link", "of", "rate"), [("h2d", "a<b", "4")], 2)
    assert '<th class="text">Link</th><th class="text">Of</th><th class="">Rate</th>' in found
    assert '<td class="text">h2d</td><td class="text">a&lt;b</td><td class="">4</td>' in found


def test_sources_are_long():
    found = table(("value", "used", "source"), [("a", "1", "measured")], 1)
    assert '<td class="text long">measured</td>' in found


def test_every_row_has_all_columns():
    with pytest.raises(ValueError, match="shorter"):
        table(("a", "b"), [("only one",)], 1)


def test_a_note_is_escaped():
    assert note("a < b") == "<p class='note'>a &lt; b</p>"


def test_long_values_of_the_provenance_are_left_out():
    presets = {"model": "m", "prompt_lengths": [1] * 9, "model_spec": {"layers": 2}}
    run = {"s": 1.0, "provenance": {"version": "1", "packages": {}, "presets": presets}}
    found = with_short_origin(run)
    assert found == {"s": 1.0, "provenance": {"version": "1", "presets": {"model": "m"}}}
    assert "model_spec" in run["provenance"]["presets"]
