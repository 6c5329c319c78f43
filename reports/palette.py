"""One colour per op for a whole page, safe for the colour-blind."""

from collections.abc import Sequence

import pandas as pd

from schedules.timeline import Timeline

MUTED = (
    "#332288",
    "#DDCC77",
    "#44AA99",
    "#CC6677",
    "#88CCEE",
    "#882255",
    "#999933",
    "#AA4499",
    "#117733",
)
"""Paul Tol's qualitative scheme "muted" (SRON/EPS/TN/09-002, figure 6), in an order that sets
neighbours apart."""


def _lighter(colour: str) -> str:
    """Halfway to white.

    >>> _lighter("#332288")
    '#9990C3'
    """
    return "#" + "".join(f"{(int(colour[i : i + 2], 16) + 255) // 2:02X}" for i in (1, 3, 5))


PALETTE = (*MUTED, *(_lighter(colour) for colour in MUTED))


def op_colours(timelines: Sequence[Timeline]) -> dict[str, str]:
    """A colour for each op of all `timelines`; ops stand lane by lane, the longest first.

    The ops that take most time get the full colours, the next nine a lighter shade of them, and
    from the nineteenth on the palette starts again.
    """
    streams = list(dict.fromkeys(s for timeline in timelines for s in timeline.streams))
    rows = pd.concat([timeline.frame for timeline in timelines])
    rows = rows.assign(
        busy_s=rows["end_s"] - rows["start_s"], lane=rows["stream"].map(streams.index)
    )
    busy = rows.groupby(["op", "lane"])["busy_s"].sum().reset_index()
    busy = busy.sort_values(["busy_s", "op", "lane"], ascending=[False, True, True])
    home = busy.drop_duplicates("op")  # the lane where an op spends most of its time
    rank = {op: i for i, op in enumerate(home["op"])}
    ordered = home.sort_values("lane", kind="stable")["op"]
    return {op: PALETTE[rank[op] % len(PALETTE)] for op in ordered}
