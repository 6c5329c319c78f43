"""The functions: weights in any pieces, any workspace, any way to run the experts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.functions import attention, decode_attention, grouped, prefill_attention
from runtime.functions.linear import BLOCK_BYTES, row_blocks
from runtime.pieces import LayerWeights, Piece
from runtime.workspace import Workspace
from schedules.errors import MoelabError
from schedules.kernels import Kernels
from schedules.layer_sizes import LayerSizes
from tests.runtime.checkpoints import FAMILIES
from tests.runtime.layer_runs import LENGTHS, hidden_states, one_rank, run_layer
from tests.runtime.test_sharded import random_model

SOURCES = {family: random_model(family) for family in FAMILIES}


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "dbrx"])
def test_cut_weights_give_the_same_result(family, data):
    source = SOURCES[family]
    [(arch, w)] = one_rank(source, layer := 1)
    hidden = hidden_states(arch)
    cut = {}
    for name, pieces in w.matrices.items():
        whole = torch.cat([p.tensor for p in pieces])
        edges = data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=4), label=name)
        bounds = itertools.pairwise([0, *sorted(edges), len(whole)])
        cut[name] = tuple(Piece(a, b, whole[a:b].clone()) for a, b in bounds)
    got = run_layer([(arch, LayerWeights(cut, w.vectors))], hidden)
    close(got, run_layer(one_rank(source, layer), hidden))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_workspace_of_the_ground_is_enough_and_a_smaller_one_is_used_in_chunks(family):
    source = SOURCES[family]
    arch = source.architecture
    for layer in arch.spec.decoder_layers:
        hidden = hidden_states(arch)
        ranks, t = one_rank(source, layer.index), len(hidden)
        wanted = run_layer(ranks, hidden)
        sizes = LayerSizes(arch.spec, Kernels(experts="loop"))
        budget = int(sizes.workspace_bytes(layer, t, 0)) + 2**12  # alignment
        ws = Workspace.of_size(budget)
        close(run_layer(ranks, hidden, ws), wanted)
        least = 2 * hidden.nbytes + 2**12 + 2**13
        small = Workspace.of_size(least)
        close(run_layer(ranks, hidden, small), wanted)
        assert small.high_water_bytes <= least


def test_a_workspace_without_room_says_so():
    source = SOURCES["mixtral"]
    with pytest.raises(MoelabError, match="the workspace has"):
        run_layer(one_rank(source, 0), hidden_states(source.architecture), Workspace.of_size(2048))


def test_the_same_call_gives_the_same_bits():
    source = SOURCES["qwen3_moe"]
    ranks, hidden = one_rank(source, 0), hidden_states(source.architecture)
    assert torch.equal(run_layer(ranks, hidden), run_layer(ranks, hidden))


def test_routing_is_told_before_the_experts_and_weights_of_others_may_be_missing():
    """As an on-demand schedule does: it loads the experts that the router chose."""
    source = SOURCES["mixtral"]
    [(arch, w)] = one_rank(source, 0)
    hidden, chosen = hidden_states(arch)[:1].repeat(sum(LENGTHS), 1), []
    wanted = run_layer([(arch, w)], hidden, ids=chosen)
    [ids] = chosen
    assert ids.shape == (sum(LENGTHS), arch.spec.top_k)
    touched = set(ids.flatten().tolist())
    assert len(touched) < arch.spec.n_experts
    kept = {name: pieces for name, pieces in w.matrices.items() if len(pieces) == 1}
    each = {"gate": 96, "up": 96, "down": 64}
    for name, rows in each.items():
        whole = torch.cat([p.tensor for p in w.matrices[name]])
        spans = [(e * rows, (e + 1) * rows) for e in sorted(touched)]
        kept[name] = tuple(Piece(a, b, whole[a:b].clone()) for a, b in spans)
    close(run_layer([(arch, LayerWeights(kept, w.vectors))], hidden), wanted)
    kept["up"] = kept["up"][1:]
    with pytest.raises(MoelabError, match="of matrix 'up' are not on the device"):
        run_layer([(arch, LayerWeights(kept, w.vectors))], hidden)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "dbrx"])
@pytest.mark.parametrize("budget", [2**22, 2**15])
def test_grouped_products_give_the_same_result(family, budget, monkeypatch):
    """PyTorch's grouped GEMM runs on the CPU too, where it is not used."""
    if not grouped.is_right(torch.float32, torch.device("cpu")):
        pytest.skip("this PyTorch has no grouped GEMM for CPUs")
    source = SOURCES[family]
    layer = 0 if source.architecture.spec.decoder_layers[0].is_moe else 1
    ranks, hidden = one_rank(source, layer, "cpu"), hidden_states(source.architecture)
    wanted = run_layer(ranks, hidden)
    calls = []

    def count(*args, **kwargs):
        calls.append(args)
        return torch.nn.functional.grouped_mm(*args, **kwargs)

    monkeypatch.setattr(grouped, "has_grouped_gemm", lambda dtype, device: True)
    monkeypatch.setattr(grouped, "_product", lambda: count)
    close(run_layer(ranks, hidden, Workspace.of_size(budget)), wanted)
    assert len(calls) >= 3
    assert (len(calls) > 3) == (budget < 2**20)


def test_a_grouped_product_needs_all_experts_in_one_piece(monkeypatch):
    source = SOURCES["mixtral"]
    [(arch, w)] = one_rank(source, 0, "cpu")
    x = hidden_states(arch)
    assert grouped.stacks(arch, w, x) is None  # a CPU
    monkeypatch.setattr(grouped, "has_grouped_gemm", lambda dtype, device: True)
    assert grouped.stacks(arch, w, x) is not None
    [piece] = w.matrices["up"]
    halves = (Piece(0, 96, piece.tensor[:96]), Piece(96, 384, piece.tensor[96:].clone()))
    for pieces in (halves, halves[:1]):
        cut = LayerWeights({**w.matrices, "up": pieces}, w.vectors)
        assert grouped.stacks(arch, cut, x) is None


def test_a_grouped_product_that_is_wrong_is_not_used(monkeypatch):
    cpu = torch.device("cpu")
    assert not grouped.has_grouped_gemm(torch.float32, cpu)
    monkeypatch.setattr(grouped, "_product", lambda: lambda x, w, offs: x @ w[0])
    assert not grouped.is_right(torch.float32, cpu)
    monkeypatch.setattr(grouped, "_product", lambda: None)
    assert not grouped.is_right(torch.float32, cpu)


# -- attention ----------------------------------------------------------------------------------


def plain_attention(q, k, v, causal):
    """q (t, heads, d), k and v (t, KV heads, d), written out in float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (
        x.double() for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
    )
    scores = torch.einsum("ahd,bhd->hab", q, k) / q.shape[2] ** 0.5
    if causal:
        scores.masked_fill_(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
    return torch.einsum("hab,bhd->ahd", scores.softmax(-1), v).float()


@pytest.mark.parametrize("item_bytes", [BLOCK_BYTES, 600])
@pytest.mark.parametrize("lengths", [(4,), (5, 5, 5), (1, 3, 3, 2), (2, 2, 2, 2, 7)])
def test_prompts_attend_to_themselves_alone(lengths, item_bytes, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_BYTES", item_bytes)
    arch = SOURCES["mixtral"].architecture
    packed, out = torch.randn(sum(lengths), arch.qkv_size), torch.empty(sum(lengths), 64)
    prefill_attention(arch, packed, lengths, out)
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        q, k, v = packed[rows].unflatten(1, (8, 16)).split([4, 2, 2], dim=1)
        close(out[rows], plain_attention(q, k, v, causal=True).flatten(1))
        start += length


@pytest.mark.parametrize("attend", [decode_attention, attention.attend_runs])
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (6, 1)])
@given(contexts=st.lists(st.integers(1, 9), min_size=1, max_size=6), same=st.booleans())
@settings(max_examples=15)
def test_new_tokens_attend_to_their_cache(attend, heads, contexts, same):
    contexts = [contexts[0]] * len(contexts) if same else contexts
    offsets = [sum(contexts[:s]) + 2 * s for s in range(len(contexts))]  # with room to spare
    (n_heads, n_kv), n, d = heads, len(contexts), 16
    rows = offsets[-1] + contexts[-1]
    keys, values = torch.randn(2, rows, n_kv, d)
    q = torch.randn(n, n_heads + 3, d)[:, :n_heads]  # as in packed queries, keys and values
    out = torch.empty(n, n_heads, d)
    attend(q, keys, values, offsets, contexts, out)
    for s, (offset, context) in enumerate(zip(offsets, contexts, strict=True)):
        at = slice(offset, offset + context)
        wanted = plain_attention(q[s : s + 1], keys[at], values[at], causal=False)
        close(out[s : s + 1], wanted)


def test_sequences_at_equal_distances_are_one_call():
    runs = attention._regular_runs
    assert list(runs([0, 5, 10, 15], [3, 3, 3, 3])) == [(0, 4, 5)]
    assert list(runs([0, 5, 10, 15], [3, 3, 4, 4])) == [(0, 2, 5), (2, 4, 5)]
    assert list(runs([5, 0, 10], [3, 3, 3])) == [(0, 1, 0), (1, 3, 10)]
    assert list(runs([], [])) == []


@given(n=st.integers(0, 50), size=st.integers(1, BLOCK_BYTES))
def test_blocks_cover_all_rows_and_stay_small(n, size):
    blocks = list(row_blocks(n, size))
    assert [i for block in blocks for i in range(n)[block]] == list(range(n))
    assert all((block.stop - block.start) * size <= BLOCK_BYTES for block in blocks)
