"""What routing looks like: distinct experts, popularity, hit rates of a cache."""

from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from schedules.batching import balance
from schedules.graph import RoutingTrace
from schedules.model import ModelSpec
from schedules.routing import Routing
from schedules.routing_table import IntArray, expert_columns, read_columns
from schedules.routing_trace import Places, moe_layers, routing_trace
from schedules.task import Task

BATCH = ("batch", "step", "micro_batch")
"""What tells apart the gates of a layer."""


class Cache(Protocol):
    """A cache of experts."""

    def access(self, key: Hashable) -> bool:
        """Use an expert; whether it was there."""
        ...


def draw_routing(
    routing: Routing,
    model: ModelSpec,
    lengths: Sequence[int],
    gen_len: int,
    micro_batch_size: int | None = None,
) -> pd.DataFrame:
    """What the gates of a generation choose, with the columns of `routing.parquet`.

    `lengths` are prompt lengths in tokens, in micro-batches of at most `micro_batch_size` (None:
    one micro-batch). Raises `BadInput` for recorded routing of another model.

    >>> from schedules.model_presets import load_model
    >>> table = draw_routing(Routing(), load_model("switch-base-8"), (3, 2), gen_len=4)
    >>> table[table["step"] == 0]["layer"].value_counts().to_dict()
    {1: 5, 3: 5, 5: 5, 7: 5, 9: 5, 11: 5}
    """
    batches = balance(lengths, micro_batch_size or len(lengths))
    trace = routing_trace(routing, model, batches, gen_len)
    return routing_table(trace, model, Places(batches, model.is_encoder_decoder), gen_len)


def routing_table(
    trace: RoutingTrace, model: ModelSpec, places: Places, gen_len: int
) -> pd.DataFrame:
    """What a trace answers, with the columns of `routing.parquet`; see `draw_routing`."""
    rows: list[IntArray] = []
    steps = gen_len if model.is_encoder_decoder else gen_len - 1
    for step in range(steps + 1):
        encoder = model.is_encoder_decoder and step == 0
        for layer in moe_layers(model.encoder_layers if encoder else model.decoder_layers):
            for j in range(len(places.batches)):
                sequences, positions, _ = places.of(j, step)
                ids = trace(Task(0, "gate", "gpu", layer, j, step))
                place = [np.full_like(sequences, value) for value in (step, layer, j)]
                rows.append(np.column_stack([*place, sequences, positions, ids]))
    names = ["step", "layer", "micro_batch", "request", "position"]
    names += [f"expert_{i}" for i in range(model.top_k)]
    return pd.DataFrame(np.concatenate(rows).astype(np.int32), columns=names)


def routing_statistics(
    table: pd.DataFrame, cache: Cache | None = None, encoder_layers: int = 0
) -> pd.DataFrame:
    """Statistics of a table of routing, drawn or recorded.

    Parameters
    ----------
    table: with the columns of `routing.parquet`.
    cache: accessed with keys (layer, expert), by each gate once for each expert that it has chosen,
        in the order of the ids; gates follow one another by batch, step, layer, micro-batch.
    encoder_layers: layers of the encoder, if there is one; step 0 is then the encoder's, and a
        cache counts layers through both stacks, the decoder's first one by this number.

    Returns a row for each phase (`prefill`, `decode`) and layer: `tokens`; `distinct`, experts that
    any of them takes; `distinct_mean` and `distinct_max`, those that one gate chooses;
    `top1_share`, the share of the tokens that take the most popular expert; with a cache,
    `accesses` and `hit_rate`.

    Raises `BadInput` for a malformed table.
    """
    columns = read_columns(table, "the table")
    ids = np.stack([columns[name] for name in expert_columns(table)], axis=1)
    hits = None if cache is None else _hits(columns, ids, cache, encoder_layers)
    rows = []
    for phase, of_phase in (("prefill", columns["step"] == 0), ("decode", columns["step"] > 0)):
        for layer in np.unique(columns["layer"][of_phase]):
            here = of_phase & (columns["layer"] == layer)
            gates = np.stack([columns[name][here] for name in BATCH], axis=1)
            row = {"phase": phase, "layer": int(layer)} | _popularity(gates, ids[here])
            if hits is not None:
                found = hits[phase, int(layer)]
                row |= {"accesses": len(found), "hit_rate": float(np.mean(found))}
            rows.append(row)
    return pd.DataFrame(rows)


def _popularity(gates: IntArray, ids: IntArray) -> dict[str, float]:
    chosen = _chosen(gates, ids)
    _, distinct = np.unique(chosen[:, :-1], axis=0, return_counts=True)
    counts = np.bincount(ids.ravel())
    return {
        "tokens": len(ids),
        "distinct": int(np.count_nonzero(counts)),
        "distinct_mean": float(distinct.mean()),
        "distinct_max": int(distinct.max()),
        "top1_share": float(counts.max() / len(ids)),
    }


def _chosen(gates: IntArray, ids: IntArray) -> IntArray:
    """Each gate's experts, each once, in order: rows are the gate's numbers and the expert."""
    top_k = ids.shape[1]
    pairs = np.column_stack([np.repeat(gates, top_k, axis=0), ids.ravel()])
    return np.unique(pairs, axis=0)


def _hits(
    columns: dict[str, IntArray], ids: IntArray, cache: Cache, encoder_layers: int
) -> dict[tuple[str, int], list[bool]]:
    """Whether each access was a hit, by phase and layer."""
    order = ("batch", "step", "layer", "micro_batch")
    gates = np.stack([columns[name] for name in order], axis=1)
    found: dict[tuple[str, int], list[bool]] = {}
    for _, step, layer, _, expert in _chosen(gates, ids).tolist():
        behind = encoder_layers if step > 0 else 0
        phase = "decode" if step > 0 else "prefill"
        found.setdefault((phase, layer), []).append(cache.access((layer + behind, expert)))
    return found
