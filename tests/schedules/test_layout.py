"""How a layer's matrices are cut between rows: Mixtral by hand, then any cuts of any model."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.contents import Span
from schedules.errors import BadInput
from schedules.layout import (
    MATRICES,
    Matrix,
    Rows,
    layer_at,
    layer_matrices,
    rows_of,
)
from schedules.model import ModelSpec
from schedules.model_presets import load_model
from schedules.quantisation import Quantisation

MIXTRAL = load_model("mixtral-8x7b")
DBRX = load_model("dbrx")
SWITCH = load_model("switch-base-8")


def model(**changes) -> ModelSpec:
    """A small model, made up: a dense layer, then layers with experts."""
    fields = {
        "name": "small",
        "family": "qwen2_moe",
        "dtype": "float32",
        "n_layers": 3,
        "hidden_size": 12,
        "vocab_size": 40,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 6,
        "n_experts": 5,
        "top_k": 2,
        "expert_ffn_size": 8,
        "ffn_matrices": 3,
        "dense_ffn_size": 28,
        "first_dense_layers": 1,
        "tied_embeddings": False,
        "max_context": 100,
        "source": "made up",
    }
    return ModelSpec(**(fields | changes))


# -- the matrices, by hand -------------------------------------------------------------------------


def shapes(spec, layer=0, shards=1):
    matrices = layer_matrices(spec, spec.decoder_layers[layer], shards)
    assert [matrix.name for matrix in matrices.values()] == list(matrices)
    return {name: (m.rows, m.cols, m.experts) for name, m in matrices.items()}


def test_matrices_of_mixtral():
    assert shapes(MIXTRAL) == {
        "q": (4_096, 4_096, 1),
        "k": (1_024, 4_096, 1),
        "v": (1_024, 4_096, 1),
        "o": (4_096, 4_096, 1),
        "router": (8, 4_096, 1),
        "gate": (8 * 14_336, 4_096, 8),
        "up": (8 * 14_336, 4_096, 8),
        "down": (8 * 4_096, 14_336, 8),
    }


def test_matrices_of_mixtral_on_each_of_two_gpus():
    """Heads and the experts' widths are divided: o and down by columns. The router is whole."""
    assert shapes(MIXTRAL, shards=2) == {
        "q": (2_048, 4_096, 1),
        "k": (512, 4_096, 1),
        "v": (512, 4_096, 1),
        "o": (4_096, 2_048, 1),
        "router": (8, 4_096, 1),
        "gate": (8 * 7_168, 4_096, 8),
        "up": (8 * 7_168, 4_096, 8),
        "down": (8 * 4_096, 7_168, 8),
    }


def test_dbrx_keeps_the_down_projection_transposed():
    """Its rows are the expert's width, 10752; so tensor parallelism divides rows."""
    assert shapes(DBRX)["down"] == (16 * 10_752, 6_144, 16)
    assert shapes(DBRX, shards=4)["down"] == (16 * 2_688, 6_144, 16)


def test_shared_experts_stand_side_by_side_and_dense_layers_have_none():
    spec = model(n_shared_experts=2, shared_ffn_size=5)
    assert list(shapes(spec, 0)) == ["q", "k", "v", "o", "gate", "up", "down"]
    assert shapes(spec, 0)["gate"] == (28, 12, 1)
    assert shapes(spec, 1) == {
        "q": (24, 12, 1),
        "k": (12, 12, 1),
        "v": (12, 12, 1),
        "o": (12, 24, 1),
        "router": (5, 12, 1),
        "shared_gate": (10, 12, 1),
        "shared_up": (10, 12, 1),
        "shared_down": (12, 10, 1),
        "gate": (40, 12, 5),
        "up": (40, 12, 5),
        "down": (60, 8, 5),
    }


def test_matrices_of_an_encoder_and_of_a_decoder_with_cross_attention():
    """Switch-Base-8: width 768, 12 heads of 64, FFNs of 768 x 3072 and back; odd layers have 8.

    Its 12 decoder layers have the numbers 0 to 11, the 12 of the encoder 12 to 23.
    """
    square, dense = (768, 768, 1), {"up": (3_072, 768, 1), "down": (768, 3_072, 1)}
    own = dict.fromkeys(("q", "k", "v", "o"), square)
    cross = dict.fromkeys(("cross_q", "cross_k", "cross_v", "cross_o"), square)
    experts = {"router": (8, 768, 1), "up": (24_576, 768, 8), "down": (6_144, 3_072, 8)}
    wanted = {0: own | cross | dense, 1: own | cross | experts, 12: own | dense, 13: own | experts}
    for number, matrices in wanted.items():
        made = layer_matrices(SWITCH, layer_at(SWITCH, number))
        assert {name: (m.rows, m.cols, m.experts) for name, m in made.items()} == matrices
        assert list(made) == list(matrices)
    layers = [layer_at(SWITCH, number) for number in range(24)]
    assert layers == [*SWITCH.decoder_layers, *SWITCH.encoder_layers]
    assert [layer.number for layer in layers] == list(range(24))


def test_spans_of_an_encoder_s_layer():
    assert rows_of(SWITCH, Span(13, "expert", expert=2)) == (
        Rows(13, "up", 6_144, 9_216),
        Rows(13, "down", 1_536, 2_304),
    )
    names = [rows.matrix for rows in rows_of(SWITCH, Span(1, "attention"))]
    assert names == ["q", "k", "v", "o", "cross_q", "cross_k", "cross_v", "cross_o"]
    assert [rows.matrix for rows in rows_of(SWITCH, Span(13, "attention"))] == names[:4]


def test_each_gpu_has_at_least_one_kv_head():
    """Two KV heads of 6 on four GPUs: each has one of them, two GPUs the same."""
    assert shapes(model(), shards=4)["k"] == (6, 12, 1)
    assert shapes(model(), shards=2)["k"] == (6, 12, 1)
    assert shapes(model(), shards=4)["q"] == (6, 12, 1)


@pytest.mark.parametrize(
    ("name", "vectors"),
    [
        ("mixtral-8x7b", 2 * 4_096),  # two norms
        ("mixtral-8x22b", 2 * 6_144),
        ("dbrx", 2 * 6_144),
        ("qwen3-30b-a3b", 2 * 2_048 + 2 * 128),  # and one for the heads of queries, one for keys
    ],
)
def test_matrices_and_vectors_are_all_parameters_of_a_layer(name, vectors):
    spec = load_model(name)
    layer = spec.decoder_layers[0]
    matrices = layer_matrices(spec, layer).values()
    assert sum(m.rows * m.cols for m in matrices) + vectors == layer.parameters


# -- cuts, by hand ---------------------------------------------------------------------------------


def test_quarters_of_mixtral_s_experts():
    """A layer's experts have 3 x 8 x 14336 x 4096 = 1,409,286,144 elements.

    A quarter has 352,321,536: 86,016 rows of 4096, or 24,576 of 14,336 elements. Gate and up have
    114,688 rows each, down 32,768.
    """
    quarters = [Span(5, "experts", i / 4, (i + 1) / 4) for i in range(4)]
    assert [rows_of(MIXTRAL, span) for span in quarters] == [
        (Rows(5, "gate", 0, 86_016),),
        (Rows(5, "gate", 86_016, 114_688), Rows(5, "up", 0, 57_344)),
        (Rows(5, "up", 57_344, 114_688), Rows(5, "down", 0, 8_192)),
        (Rows(5, "down", 8_192, 32_768),),
    ]


def test_a_cut_within_a_row_goes_to_the_nearest_border():
    """A page of 14 has 100,663,296 elements: 24,576 rows of 4096, or 7021.7 rows of 14,336.

    So the last page begins 7021.7 rows before the end of down, at row 25,746.3.
    """
    first, *_, before, last = (Span(0, "experts", i / 14, (i + 1) / 14) for i in range(14))
    assert rows_of(MIXTRAL, first) == (Rows(0, "gate", 0, 24_576),)
    assert rows_of(MIXTRAL, before)[-1].stop == 25_746
    assert rows_of(MIXTRAL, last) == (Rows(0, "down", 25_746, 32_768),)


def test_flexgen_s_tensors_of_mixtral_s_attention_are_its_matrices():
    """Query 40 %, key 10 %, value 10 %, output 40 %."""
    edges = (0, 0.4, 0.5, 0.6, 1)
    for name, rows, start, stop in zip(
        "qkvo", (4_096, 1_024, 1_024, 4_096), edges[:-1], edges[1:], strict=True
    ):
        assert rows_of(MIXTRAL, Span(1, "attention", start, stop)) == (Rows(1, name, 0, rows),)


def test_one_expert():
    assert rows_of(MIXTRAL, Span(2, "expert", expert=3)) == (
        Rows(2, "gate", 3 * 14_336, 4 * 14_336),
        Rows(2, "up", 3 * 14_336, 4 * 14_336),
        Rows(2, "down", 3 * 4_096, 4 * 4_096),
    )
    down = rows_of(DBRX, Span(2, "expert", expert=15), shards=4)[-1]
    assert down == Rows(2, "down", 15 * 2_688, 16 * 2_688)


# -- matrices in fewer bits ------------------------------------------------------------------------


def test_rows_of_mixtral_in_eight_and_four_bits():
    """A row of 4096 in 8 bits has 4096 bytes and 64 scales, one of 14336 in 4 bits 7168 and 224."""
    q = Quantisation(experts=4, dense=8)
    spec = MIXTRAL.model_copy(update={"quantisation": q})
    made = layer_matrices(spec, spec.decoder_layers[0])
    assert {name: (m.row_bytes, m.bits) for name, m in made.items()} == {
        "q": (4_096 + 128, 8),
        "k": (4_096 + 128, 8),
        "v": (4_096 + 128, 8),
        "o": (4_096 + 128, 8),
        "router": (2 * 4_096, None),
        "gate": (2_048 + 128, 4),
        "up": (2_048 + 128, 4),
        "down": (7_168 + 448, 4),
    }
    plain = layer_matrices(MIXTRAL, MIXTRAL.decoder_layers[0])
    assert {name: (m.rows, m.cols, m.experts) for name, m in made.items()} == {
        name: (m.rows, m.cols, m.experts) for name, m in plain.items()
    }


def test_a_cut_is_a_share_of_the_bytes():
    """Experts in 4 bits beside attention in float16: half of a layer lies within the experts.

    Attention and router have 41,975,808 elements, 83,951,616 bytes; gate, up and down have
    249,561,088 bytes each. The half, 416,317,440 bytes, is 82,804,736 bytes after gate's end, and
    82,804,736 / 2176 is row 38,053.6 of up.
    """
    spec = MIXTRAL.model_copy(update={"quantisation": Quantisation(experts=4)})
    first, second = (Span(0, "layer", a, b) for a, b in ((0, 0.5), (0.5, 1)))
    assert rows_of(spec, first)[-1] == Rows(0, "up", 0, 38_054)
    assert rows_of(spec, second)[0] == Rows(0, "up", 38_054, 114_688)
    assert rows_of(spec, Span(2, "expert", expert=3)) == rows_of(
        MIXTRAL, Span(2, "expert", expert=3)
    )


# -- any model, any cuts ---------------------------------------------------------------------------


widths = st.sampled_from([None, 4, 8])
quantisations = st.builds(
    Quantisation, experts=widths, dense=widths, group=st.sampled_from([8, 16, 64])
)


@st.composite
def models(draw, shards: int = 1):
    """Small models of which `shards` GPUs can share everything."""
    kv = draw(st.sampled_from([1, 2, 4]))
    moe = draw(st.booleans())
    shared = draw(st.integers(0, 2)) if moe else 0
    return model(
        quantisation=draw(st.none() | quantisations),
        family=draw(st.sampled_from(["mixtral", "qwen2_moe", "qwen3_moe", "dbrx", "llama"])),
        hidden_size=draw(st.integers(1, 24)),
        head_dim=draw(st.integers(1, 8)),
        n_kv_heads=kv,
        n_heads=4 * draw(st.integers(1, 2)),
        n_experts=draw(st.integers(2, 6)) if moe else 1,
        top_k=draw(st.integers(1, 2)) if moe else 1,
        expert_ffn_size=shards * draw(st.integers(1, 9)),
        dense_ffn_size=shards * draw(st.integers(1, 20)),
        first_dense_layers=draw(st.integers(0, 1)) if moe else 0,
        n_shared_experts=shared,
        shared_ffn_size=shards * draw(st.integers(1, 5)) if shared else 0,
    )


cuts = st.lists(st.floats(0, 1, allow_nan=False), max_size=8)
parts = st.sampled_from([part for part in MATRICES if part != "expert"])


def covered(spec, spans, shards):
    """By matrix, the rows of all spans, one after the other and sorted."""
    found = defaultdict(list)
    for span in spans:
        for rows in rows_of(spec, span, shards):
            assert rows.layer == span.layer
            assert rows.start < rows.stop
            found[rows.matrix].extend(range(rows.start, rows.stop))
    return {name: sorted(rows) for name, rows in found.items()}


def everything(spec, layer, part, shards):
    """By matrix, all rows that a part has."""
    every = layer_matrices(spec, spec.decoder_layers[layer], shards)
    return {name: list(range(every[name].rows)) for name in MATRICES[part] if name in every}


@settings(max_examples=200)
@given(st.data(), st.sampled_from([1, 2, 4]), st.integers(0, 2), parts, cuts)
def test_spans_that_meet_cover_every_row_once(data, shards, layer, part, cuts):
    """However a part is cut, and also where several cuts fall into one row."""
    spec = data.draw(models(shards))
    edges = sorted({0.0, 1.0, *cuts})
    spans = [Span(layer, part, a, b) for a, b in pairwise(edges)]
    assert covered(spec, spans, shards) == everything(spec, layer, part, shards)


@settings(max_examples=100)
@given(st.data(), st.integers(0, 2), parts, st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_a_span_has_its_share_of_the_bytes_to_within_a_row(data, layer, part, edges):
    """Elements of a matrix in 4 bits have fewer, but for the scales."""
    spec = data.draw(models())
    matrices = layer_matrices(spec, spec.decoder_layers[layer])
    own = [matrices[name] for name in MATRICES[part] if name in matrices]
    total = sum(m.bytes for m in own)
    rows = rows_of(spec, Span(layer, part, *edges))
    found = sum((r.stop - r.start) * matrices[r.matrix].row_bytes for r in rows)
    assert abs(found - (edges[1] - edges[0]) * total) <= max(m.row_bytes for m in own)


@settings(max_examples=50)
@given(st.data(), st.sampled_from([1, 2, 4]), st.integers(0, 2))
def test_the_experts_one_by_one_are_all_experts(data, shards, layer):
    spec = data.draw(models(shards))
    count = spec.decoder_layers[layer].n_experts
    spans = [Span(layer, "expert", expert=e) for e in range(count)]
    assert covered(spec, spans, shards) == everything(spec, layer, "experts", shards)


@settings(max_examples=50)
@given(st.data(), st.integers(0, 2))
def test_parts_that_make_up_a_layer(data, layer):
    spec = data.draw(models())
    whole = everything(spec, layer, "layer", 1)
    for parts in (("attention", "ffn"), ("resident", "experts")):
        assert covered(spec, [Span(layer, part) for part in parts], 1) == whole


@settings(max_examples=50)
@given(st.data(), st.sampled_from([2, 4]), st.integers(0, 2))
def test_the_gpus_together_have_every_element(data, shards, layer):
    """But the router, which each has, and keys and values where there are fewer heads than GPUs."""
    spec = data.draw(models(shards))
    of = spec.decoder_layers[layer]
    whole, part = layer_matrices(spec, of), layer_matrices(spec, of, shards)
    for name, matrix in part.items():
        copies = shards if name == "router" else 1
        if name in ("k", "v"):
            copies = max(1, shards // spec.n_kv_heads)
        elements = matrix.rows * matrix.cols * shards
        assert elements == whole[name].rows * whole[name].cols * copies


# -- what cannot be cut ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("deepseek-v2-lite", "latent attention"),
        ("opt-6.7b", "FFNs without a gate matrix"),
    ],
)
def test_models_that_the_runtime_does_not_compute(name, what):
    with pytest.raises(BadInput, match=f"model '{name}' has {what}, which the runtime does not"):
        rows_of(load_model(name), Span(0, "layer"))


@pytest.mark.parametrize(
    ("changes", "shards", "why"),
    [
        ({}, 3, "4 heads, which 3 GPUs cannot share evenly"),
        ({"dense_ffn_size": 27}, 2, "27 elements in an expert's width, which 2 GPUs"),
        ({"n_shared_experts": 1, "shared_ffn_size": 5}, 2, "5 elements in the shared experts'"),
        ({"vocab_size": 41}, 2, "41 tokens in the vocabulary, which 2 GPUs"),
        ({"n_heads": 12, "n_kv_heads": 3}, 2, "3 KV heads and 2 GPUs do not divide"),
    ],
)
def test_models_that_cannot_be_shared_evenly(changes, shards, why):
    with pytest.raises(BadInput, match=why):
        rows_of(model(**changes), Span(0, "layer"), shards)


def test_matrices_are_found_once():
    """They are asked for with every span; a table of them is kept."""
    layer = MIXTRAL.decoder_layers[0]
    assert layer_matrices(MIXTRAL, layer) is layer_matrices(MIXTRAL, layer)
    assert isinstance(layer_matrices(MIXTRAL, layer)["q"], Matrix)
