"""What a timeline moves: counted by hand."""

import pandas as pd
import pytest

from schedules.movement import exposed_transfer_s, moe_block_s, moved_bytes

COLUMNS = ["op", "stream", "layer", "step", "start_s", "end_s", "link_bytes"]
ROWS = pd.DataFrame(
    [
        ("load_expert", "h2d", 0, 1, 0.0, 3.0, 8.0),
        ("compute_attention", "gpu", 0, 1, 1.0, 2.0, 0.0),
        ("experts", "gpu", 0, 1, 3.0, 4.0, 0.0),
        ("load_expert", "h2d", 1, 1, 3.5, 6.0, 8.0),
        ("store_kv", "d2h", 1, 1, 5.0, 7.0, 2.0),
        ("cpu_attention", "cpu", 1, 1, 6.5, 8.0, 0.0),
    ],
    columns=COLUMNS,
)


def test_bytes_by_operation():
    assert moved_bytes(ROWS) == {"load_expert": 16.0, "store_kv": 2.0}
    assert moved_bytes(ROWS[:0]) == {}


def test_copies_that_nothing_hides():
    """0-1 and 2-3 before the experts, then 4-6.5 until the CPU begins."""
    assert exposed_transfer_s(ROWS) == pytest.approx(1 + 1 + 2.5)
    assert exposed_transfer_s(ROWS[:0]) == 0.0
    assert exposed_transfer_s(ROWS[ROWS["stream"] == "gpu"]) == 0.0


def test_blocks():
    """Layer 0 from its first start, 0, to 4; layer 1 from there to 8. Prefill does not count."""
    assert moe_block_s(ROWS, [0]) == 4.0
    assert moe_block_s(ROWS, [1]) == 4.0
    later = ROWS.assign(step=2, end_s=ROWS["end_s"] + 1.0)
    assert moe_block_s(pd.concat([ROWS, later]), [0]) == 4.5
    assert moe_block_s(ROWS.assign(step=0), [0, 1]) is None
    assert moe_block_s(ROWS, []) is None
