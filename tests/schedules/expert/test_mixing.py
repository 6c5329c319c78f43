"""Sequences that replace one another: over a cycle they do what a batch does by itself."""

from hypothesis import given
from hypothesis import strategies as st

from schedules.expert.mixing import Group, Share

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=20).map(tuple)
groups = st.builds(
    lambda own, index, more, gen_len: Group(own, index, index + 1 + more, gen_len),
    lengths,
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(1, 30),
)


@given(groups)
def test_each_sequence_reads_one_prompt_and_decodes_the_rest(group):
    shares = group.shares()
    n, steps = len(group.lengths), group.gen_len - 1
    read = sorted(length for s in shares if s.new for length in s.new.prompt_lengths)
    assert read == sorted(group.lengths)
    assert sum(share.decoding for share in shares) == n * steps
    assert sum(share.sampled for share in shares) == n * group.gen_len
    assert all(share.sampled == n for share in shares)


@given(groups)
def test_each_decode_step_reads_what_the_batch_s_would(group):
    """Step s of a batch reads the prompt and s tokens; all steps from 1 to gen_len - 1."""
    steps = range(1, group.gen_len)
    by_batch = sum(length + step for length in group.lengths for step in steps)
    assert sum(share.context for share in group.shares()) == by_batch


@given(groups)
def test_the_cycle_begins_again(group):
    assert group.share(group.gen_len) == group.share(0)


@given(lengths, st.integers(1, 30))
def test_begins_are_spread_evenly(prompts, gen_len):
    """No pass begins more than one sequence more than another."""
    shares = Group(prompts, 0, 1, gen_len).shares()
    begins = [share.sampled - share.decoding for share in shares]
    assert max(begins) - min(begins) <= 1


def test_by_hand():
    """Of two groups, the second: sequences begin in passes 1, 3 and 5 of 4, which is 1 again."""
    group = Group((10, 20, 30), index=1, groups=2, gen_len=4)
    first = group.share(1)
    assert first.new is not None
    assert first.new.prompt_lengths == (10, 30)
    assert (first.decoding, first.context) == (1, 20 + 2)
    assert (first.tokens, first.sampled, first.cached) == (41, 3, 62)
    assert group.share(0) == Share(None, 3, (10 + 3) + (20 + 1) + (30 + 3))


def test_one_token_each_is_prefill_alone():
    group = Group((10, 20), index=0, groups=1, gen_len=1)
    share = group.share(0)
    assert (share.prompt_tokens, share.decoding, share.context) == (30, 0, 0)
