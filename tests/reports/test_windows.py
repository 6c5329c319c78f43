"""The part that is shown first."""

from collections.abc import Callable

import pytest

from reports.windows import MANY_TASKS, around, default_window, steady_step, whole
from schedules.errors import BadInput
from schedules.timeline import Timeline

Make = Callable[..., Timeline]


def test_whole(pipeline: Timeline) -> None:
    assert whole(pipeline) == (0.0, 7.0)


def test_steady_step_is_the_middle_one_on_the_computing_stream(pipeline: Timeline) -> None:
    # step 3 of 5 starts at 2 + 2 x 1 s; its last GPU task ends half a slot before the step does
    assert steady_step(pipeline) == pytest.approx((4.0, 5.0 - 0.25 / 4 / 2))


def test_default_window_is_two_layers_of_the_middle_step(pipeline: Timeline) -> None:
    start_s, end_s = default_window(pipeline)
    assert start_s == pytest.approx(4.25)  # layer 1 of 4: the middle, with two layers to come
    assert end_s == pytest.approx(4.75)


def test_early_loads_do_not_move_the_window(make: Make) -> None:
    rows = [("load", "h2d", layer, -1, 1, 0.0, 0.1) for layer in range(3)]
    rows += [("ffn", "gpu", layer, 0, 1, 10.0 + layer, 11.0 + layer, 1e9) for layer in range(3)]
    assert default_window(make(rows)) == (10.0, 12.0)


def test_a_model_of_one_layer_is_shown_from_its_start_to_its_end(make: Make) -> None:
    rows = [("ffn", "gpu", 0, mb, 1, mb, mb + 1.0, 1e9) for mb in range(3)]
    assert default_window(make(rows)) == (0.0, 3.0)


def test_without_decode_prefill_is_shown(make: Make) -> None:
    rows = [("ffn", "gpu", layer, 0, 0, layer, layer + 1.0, 1e9) for layer in range(8)]
    assert default_window(make(rows)) == (4.0, 6.0)


def test_without_layers_the_middle_step_is_shown(make: Make) -> None:
    rows = [("ffn", "gpu", -1, 0, step, step, step + 1.0, 1e9) for step in range(4)]
    assert default_window(make(rows)) == (2.0, 3.0)


def test_without_flops_the_stream_that_works_longest_leads(make: Make) -> None:
    rows = [("load", "h2d", k, 0, 1, 5.0 + k, 6.0 + k) for k in range(3)]
    rows += [("x", "gpu", k, 0, 1, k, k + 0.1) for k in range(3)]
    assert default_window(make(rows)) == (5.0, 7.0)


def test_a_window_never_holds_too_many_tasks(make: Make) -> None:
    rows = [("ffn", "gpu", i // 5000, 0, 1, i * 1.0, i + 1.0, 1e9) for i in range(20_000)]
    start_s, end_s = default_window(make(rows))
    assert end_s - start_s == MANY_TASKS
    assert 5000 < start_s < end_s < 15_000


def test_around_keeps_to_the_ends(make: Make) -> None:
    timeline = make([("ffn", "gpu", 0, 0, 1, i * 1.0, i + 1.0) for i in range(100)])
    assert around(timeline, (50.0, 50.0), 10) == (45.0, 55.0)
    assert around(timeline, (0.0, 1.0), 10) == (0.0, 10.0)
    assert around(timeline, (99.0, 100.0), 10) == (90.0, 100.0)
    assert around(timeline, (50.0, 50.0), 100) == (0.0, 100.0)


@pytest.mark.parametrize("rows", [[], [("wait", "gpu", 0, 0, 1, 1.0, 1.0)]])
def test_nothing_to_draw(make: Make, rows: list[tuple[object, ...]]) -> None:
    with pytest.raises(BadInput, match="timeline 'demo' has no tasks that take time"):
        default_window(make(rows))
