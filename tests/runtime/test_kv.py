"""KV blocks: shares are whole sequences, and together they are all of them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime.kv import KVLayout
from schedules.batching import balance
from schedules.contents import KVSpan


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    gen_len=st.integers(1, 9),
    cuts=st.lists(st.floats(0, 1), max_size=4),
)
def test_shares_that_meet_hold_every_sequence_once(lengths, gen_len, cuts):
    layout = KVLayout(balance(lengths, len(lengths)), gen_len, 2, 4, 2)
    edges = sorted({0.0, 1.0, *cuts})
    shares = [layout.share(KVSpan(0, 0, a, b)) for a, b in pairwise(edges)]
    assert shares[0].first == 0
    assert shares[-1].stop == len(lengths)
    assert all(a.stop == b.first for a, b in pairwise(shares))
    rows = sum(lengths) + gen_len * len(lengths)
    assert sum(share.rows for share in shares) == rows
    whole = layout.block_bytes(KVSpan(0, 0))
    assert whole == rows * 2 * 4 * 2 * 2  # heads, width, bytes, keys and values
    assert layout.block_bytes(KVSpan(0, 0, half="keys")) * 2 == whole


def test_sequences_lie_one_after_the_other():
    """Prompts of 5, 4 and 2 tokens, longest first, with room for 3 generated ones each."""
    layout = KVLayout(balance([4, 2, 5], 3), 3, 1, 1, 4)
    assert layout.share(KVSpan(0, 0)).offsets == (0, 8, 15)
    half = layout.share(KVSpan(0, 0, 0.5, 1.0))  # 10 of 20 rows; the nearest border is at 8
    assert (half.first, half.stop, half.rows, half.offsets) == (1, 3, 12, (0, 7))
    assert layout.longest_bytes == 2 * 8 * 4
