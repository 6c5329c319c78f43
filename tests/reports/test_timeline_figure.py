"""The figure as a whole."""

from collections.abc import Callable

import pytest

from reports.lanes import make_panel
from reports.palette import op_colours
from reports.timeline_figure import notes, stacked_figure, timeline_figure, views
from reports.windows import default_window
from schedules.errors import BadInput
from schedules.timeline import Timeline

Make = Callable[..., Timeline]


def test_opens_on_the_window_and_reaches_the_whole_run(pipeline: Timeline) -> None:
    figure = timeline_figure(pipeline)
    assert figure.layout.xaxis.range == default_window(pipeline)
    assert figure.layout.xaxis.minallowed <= 0.0
    assert figure.layout.xaxis.maxallowed >= 7.0
    assert timeline_figure(pipeline, (1.0, 2.0)).layout.xaxis.range == (1.0, 2.0)


def test_lanes_follow_the_streams_from_the_top_down(pipeline: Timeline) -> None:
    axis = timeline_figure(pipeline).layout.yaxis
    assert [text.split()[0] for text in axis.ticktext] == ["h2d", "gpu", "cpu"]
    assert axis.range[0] > axis.range[1]


def test_lanes_carry_the_share_of_the_steady_step(pipeline: Timeline) -> None:
    # the step lasts until the end of its last GPU task, 31/32 of 1 s; of its 4 layers the link
    # works 0.2 s each, the GPU half of all slots, the CPU always
    step = 31 / 32
    shares = [round(100 * busy / step) for busy in (0.8, 0.5, step)]
    texts = timeline_figure(pipeline).layout.yaxis.ticktext
    assert [text.split(">")[1].split("<")[0] for text in texts] == [f"{s} %" for s in shares]


def test_one_legend_entry_per_op_even_where_none_is_in_view(pipeline: Timeline) -> None:
    figure = timeline_figure(pipeline, limit=20)
    entries = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert sorted(entries) == ["attention", "experts", "load", "prefill"]


def test_traces_stay_few_and_bars_within_the_limit(long_pipeline: Timeline) -> None:
    figure = timeline_figure(long_pipeline, limit=500)
    single = sum(len(trace.x) for trace in figure.data if trace.text is not None)
    assert len(figure.data) == 2 * 4 + 4
    assert 500 <= single <= 510  # those that are running where the part begins are drawn too


def test_caption_says_what_is_not_drawn_one_by_one(long_pipeline: Timeline) -> None:
    (caption,) = [a.text for a in timeline_figure(long_pipeline, limit=500).layout.annotations[1:]]
    assert "of 3,361 tasks around the opening view" in caption
    assert "bar heights are the shares of time of each op" in caption
    assert "Streams that ran nothing are left out." in caption


def test_caption_of_a_small_timeline_claims_nothing_is_missing(pipeline: Timeline) -> None:
    panel = make_panel(pipeline, (4.0, 5.0), 1000)
    assert not [sentence for sentence in notes([panel]) if "tasks" in sentence]
    assert not [sentence for sentence in notes([panel], zooming=True) if "tasks" in sentence]


def test_tasks_without_duration_are_counted(make: Make) -> None:
    rows = [("a", "gpu", 0, 0, 1, 0.0, 1.0), ("wait", "gpu", 0, 0, 1, 1.0, 1.0)]
    panel = make_panel(make(rows), (0.0, 1.0), 10)
    assert "1 task takes no time and cannot be seen." in notes([panel])


def test_panels_share_the_time_axis_and_not_the_lanes(pipeline: Timeline, make: Make) -> None:
    other = make([("x", "host", 0, 0, 1, 0.0, 9.0)])
    panels = [make_panel(t, (0.0, 1.0), 1000) for t in (pipeline, other)]
    figure = stacked_figure(panels, (0.0, 1.0), {}, op_colours([pipeline, other]))
    first, second = figure.layout.yaxis.domain, figure.layout.yaxis2.domain
    assert 0 <= second[0] < second[1] < first[0] < first[1] < 1
    assert (first[1] - first[0]) == pytest.approx(3 * (second[1] - second[0]))  # 3 lanes and 1
    assert {trace.xaxis for trace in figure.data} == {None}
    assert figure.layout.xaxis.anchor == "y2"


def test_margin_has_room_for_the_longest_stream(make: Make) -> None:
    row = ("a", "h2d", 0, 0, 1, 0.0, 1.0)
    short = timeline_figure(make([row])).layout.margin.l
    name = "a stream with a long name"
    frame = make([row]).frame.assign(stream=name)
    wide = timeline_figure(Timeline(frame, (name,))).layout.margin.l
    assert wide - short >= 6 * (len(name) - len("h2d"))


def test_buttons_show_window_step_and_run(pipeline: Timeline) -> None:
    parts = views(pipeline, (4.0, 5.0), origin_s=4.0)
    assert parts["Steady state"] == (0.0, 1.0)
    assert parts["Whole run"] == (-4.0, 3.0)
    (menu,) = timeline_figure(pipeline).layout.updatemenus
    assert [button.label for button in menu.buttons] == list(parts)
    assert menu.buttons[2].args == ({"xaxis.range": [0.0, 7.0]},)


def test_names_are_shown_as_they_are(make: Make) -> None:
    timeline = make([("<b>op</b>", "gpu", 0, 0, 1, 0.0, 1.0)], name="<i>run</i>")
    figure = timeline_figure(timeline)
    assert figure.layout.annotations[0].text == "<b>&lt;i&gt;run&lt;/i&gt;</b>"
    assert {trace.name for trace in figure.data} == {"&lt;b&gt;op&lt;/b&gt;"}


def test_nothing_to_draw(make: Make) -> None:
    with pytest.raises(BadInput, match="nothing to draw"):
        timeline_figure(make([]))
