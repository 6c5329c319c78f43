"""The inner part of decode attention: some query heads of a group over one block of the cache.

A tile computes the scores of its heads, turns them into weights with the running softmax of
FlashAttention (Dao et al. 2022, algorithm 1), in powers of two, and adds up the weighted values.
"""

import math
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from runtime.cpu_attention_simd import (
    BYTE,
    DOT_BFLOAT16,
    INT,
    INTS,
    LANES,
    LONG,
    SIZE,
    VECTOR,
    Value,
    across,
    dot_bfloat16,
    exp2,
    floats,
    fma,
    intrinsic,
    load,
    load_raw,
    maximum,
    pointer,
    prefetch,
    splat,
    store,
    sums_of,
)

BLOCK = 64
"""Most tokens that a tile takes at once."""

LINE_BYTES = 64
CHANCES_BYTES = {4: (0, 256, 512, 1024), 2: (0, 512)}
"""A core drops prefetches while all its miss buffers are busy, so each line is asked for again:
first when it is this far ahead, at last when its turn comes. By bytes of an element, as wider ones
leave less time; measured on an AMD EPYC of family 25, model 17 (Zen 4)."""


class Tile:
    """Emits the code of one tile of `heads` heads.

    The other attributes are the arguments of `attend_group`, as LLVM values.
    """

    keys: Value
    values: Value
    query: Value
    scores: Value
    sums: Value
    peaks: Value
    totals: Value
    scale: Value
    row: Value
    count: Value
    d: Value
    width: Value
    group: Value
    ahead: Value
    moving: Value

    def __init__(self, b: Any, group: dict[str, Value], kv: Any, query: Any, heads: int) -> None:
        self.__dict__.update(group)
        self.b, self.heads, self.kv = b, heads, kv
        self.dot = DOT_BFLOAT16 and query == types.int16
        for name, kind in (("keys", kv), ("values", kv), ("query", query)):
            setattr(self, name, pointer(b, group[name], kind))
        for name in ("scores", "sums", "peaks", "totals"):
            setattr(self, name, pointer(b, group[name], types.float32))

    def skip(self, done: Value) -> None:
        """Leave out some heads, whose tiles have prefetched already."""
        b = self.b
        self.moving = b.select(b.icmp_signed("==", done, LONG(0)), self.moving, LONG(0))
        self.ahead = b.mul(self.ahead, self.moving)
        for name in ("query", "sums"):
            setattr(self, name, b.gep(getattr(self, name), [b.mul(done, self.width)]))
        for name in ("peaks", "totals"):
            setattr(self, name, b.gep(getattr(self, name), [done]))

    # -- small things ---------------------------------------------------------------------

    def variables(self, n: int, value: Value) -> list[Value]:
        """Cells for vectors, which LLVM keeps in registers."""
        cells = [cgutils.alloca_once(self.b, VECTOR) for _ in range(n)]
        for cell in cells:
            self.b.store(value, cell)
        return cells

    def cursor(self, array: Value) -> Value:
        """A cell with the address to prefetch next."""
        cell = cgutils.alloca_once(self.b, BYTE.as_pointer())
        start = self.b.bitcast(array, BYTE.as_pointer())
        self.b.store(self.b.gep(start, [self.ahead]), cell)
        return cell

    def prefetch(self, cursor: Value, n_bytes: int) -> None:
        """Ask for as many bytes of the next block as are used of this one."""
        address = self.b.load(cursor)
        for start in range(0, n_bytes, LINE_BYTES):
            for chance in CHANCES_BYTES[SIZE[self.kv]]:
                prefetch(self.b, self.b.gep(address, [LONG(start + chance)]))
        self.b.store(self.b.gep(address, [self.b.mul(self.moving, LONG(n_bytes))]), cursor)

    def upto(self, stop: Value, step: int) -> Any:
        """Loop over range(0, stop, step)."""
        return cgutils.for_range_slice(self.b, LONG(0), stop, LONG(step), LONG)

    # -- scores ---------------------------------------------------------------------------

    def scores_of_block(self) -> None:
        """scores[h, t] = scale * query[h] . keys[t], for a few heads by a few tokens at a time.

        The last few tokens are filled up with the last one.
        """
        tokens, cursor = LANES // self.heads, self.cursor(self.keys)
        with self.upto(self.count, tokens) as (first, _):
            self._few_scores(first, tokens, cursor)

    def _few_scores(self, first: Value, tokens: int, cursor: Value) -> None:
        b = self.b
        last = b.sub(self.count, LONG(1))
        rows = []
        for i in range(tokens):
            t = b.add(first, LONG(i))
            t = b.select(b.icmp_signed("<", t, last), t, last)
            rows.append(b.gep(self.keys, [b.mul(t, self.row)]))
        queries = [b.gep(self.query, [b.mul(LONG(h), self.width)]) for h in range(self.heads)]
        totals = self.variables(LANES, floats(0.0))
        step = 2 * LANES if self.dot else LANES
        rest = b.srem(self.d, LONG(step))
        full = b.sub(self.d, rest)
        with self.upto(full, step) as (i, _):
            self.prefetch(cursor, tokens * step * SIZE[self.kv])
            self._multiply(totals, rows, queries, i)
        if not self.dot:
            with b.if_then(b.icmp_signed(">", rest, LONG(0))):
                self._multiply(totals, rows, queries, full, rest)
        scores = b.fmul(sums_of(b, [b.load(t) for t in totals]), splat(b, self.scale))
        for h in range(self.heads):
            lanes = list(range(h * tokens, (h + 1) * tokens))
            mask = ir.Constant(ir.VectorType(INT, tokens), lanes)
            part = b.shuffle_vector(scores, scores, mask)
            store(b, part, b.gep(self.scores, [b.add(first, LONG(h * BLOCK))]))

    def _multiply(
        self,
        totals: list[Value],
        rows: list[Value],
        queries: list[Value],
        i: Value,
        live: Any = None,
    ) -> None:
        """Add the products of one step along the head width; `live` elements of it are there."""
        b = self.b
        keys = [self._key(b.gep(row, [i]), live) for row in rows]
        for h, query in enumerate(queries):
            q = self._query(b.gep(query, [i]))
            for key, total in zip(keys, totals[h * len(rows) :], strict=False):
                t = b.load(total)
                b.store(dot_bfloat16(b, t, key, q) if self.dot else fma(b, key, q, t), total)

    def _key(self, address: Value, live: Value | None) -> Value:
        if self.dot:
            return load_raw(self.b, self.kv, address, 2 * LANES)
        return load(self.b, self.kv, address, live)

    def _query(self, address: Value) -> Value:
        if self.dot:
            return load_raw(self.b, types.int16, address, 2 * LANES)
        return load(self.b, types.float32, address)

    # -- softmax --------------------------------------------------------------------------

    def weights_of_block(self) -> list[Value]:
        """Scores become weights 2^(score - peak); returns what earlier sums shrink by.

        Updates the peaks (highest scores so far) and the totals (sums of weights).
        """
        b, heads = self.b, range(self.heads)
        rows = [b.gep(self.scores, [LONG(h * BLOCK)]) for h in heads]
        before = [splat(b, b.load(b.gep(self.peaks, [LONG(h)]))) for h in heads]
        highest = self.variables(self.heads, floats(0.0))
        for h in heads:
            b.store(before[h], highest[h])
        with self.upto(self.count, LANES) as (t, _):
            for h in heads:
                score = load(b, types.float32, b.gep(rows[h], [t]))
                score = b.select(self._there(t), score, floats(-math.inf))
                b.store(maximum(b, b.load(highest[h]), score), highest[h])
        peaks = [splat(b, across(b, b.load(cell), maximum)) for cell in highest]
        totals = self._weigh(rows, peaks)
        shrink = []
        for h in heads:
            shrink.append(exp2(b, b.fsub(before[h], peaks[h])))
            total = b.gep(self.totals, [LONG(h)])
            kept = b.fmul(b.load(total), b.extract_element(shrink[h], INT(0)))
            added = across(b, b.load(totals[h]), lambda b, x, y: b.fadd(x, y))
            b.store(b.fadd(kept, added), total)
            b.store(b.extract_element(peaks[h], INT(0)), b.gep(self.peaks, [LONG(h)]))
        return shrink

    def _there(self, t: Value) -> Value:
        """Which of the tokens from t on are less than the count."""
        left = self.b.trunc(self.b.sub(self.count, t), INT)
        lanes = ir.Constant(INTS, list(range(LANES)))
        return self.b.icmp_signed("<", lanes, splat(self.b, left))

    def _weigh(self, rows: list[Value], peaks: list[Value]) -> list[Value]:
        """Scores become weights, zero beyond the last token; returns cells with their sums."""
        b = self.b
        totals = self.variables(self.heads, floats(0.0))
        with self.upto(self.count, LANES) as (t, _):
            for row, peak, total in zip(rows, peaks, totals, strict=True):
                cell = b.gep(row, [t])
                weight = exp2(b, b.fsub(load(b, types.float32, cell), peak))
                weight = b.select(self._there(t), weight, floats(0.0))
                store(b, weight, cell)
                b.store(b.fadd(b.load(total), weight), total)
        return totals

    # -- values ---------------------------------------------------------------------------

    def values_of_block(self, shrink: list[Value]) -> None:
        """sums[h] = shrink[h] * sums[h] + sum over t of weights[h, t] * values[t]."""
        b, cursor = self.b, self.cursor(self.values)
        rest = b.srem(self.d, LONG(LANES))
        full = b.sub(self.d, rest)
        vectors = min(LANES // self.heads, 4)
        wide = b.sub(full, b.srem(full, LONG(vectors * LANES)))
        with self.upto(wide, vectors * LANES) as (i, _):
            self._few_values(shrink, i, vectors, cursor)
        if vectors > 1:
            with cgutils.for_range_slice(b, wide, full, LONG(LANES), LONG) as (i, _):
                self._few_values(shrink, i, 1, cursor)
        with b.if_then(b.icmp_signed(">", rest, LONG(0))):
            self._few_values(shrink, full, 1, cursor, rest)

    def _few_values(
        self, shrink: list[Value], i: Value, vectors: int, cursor: Value, live: Any = None
    ) -> None:
        """A part of the head width: `vectors` vectors from element i on."""
        b = self.b
        starts = [b.add(i, LONG(v * LANES)) for v in range(vectors)]
        cells, sums = [], []
        for h in range(self.heads):
            head = b.mul(LONG(h), self.width)
            for start in starts:
                cells.append(b.gep(self.sums, [b.add(head, start)]))
                sums += self.variables(1, b.fmul(load(b, types.float32, cells[-1]), shrink[h]))
        with cgutils.for_range(b, self.count, intp=LONG) as loop:
            row = b.gep(self.values, [b.mul(loop.index, self.row)])
            if live is None:
                self.prefetch(cursor, vectors * LANES * SIZE[self.kv])
            loaded = [load(b, self.kv, b.gep(row, [start]), live) for start in starts]
            for h in range(self.heads):
                weight = b.gep(self.scores, [b.add(loop.index, LONG(h * BLOCK))])
                weights = splat(b, b.load(weight))
                for value, total in zip(loaded, sums[h * vectors :], strict=False):
                    b.store(fma(b, weights, value, b.load(total)), total)
        for cell, total in zip(cells, sums, strict=True):
            store(b, b.load(total), cell)


@intrinsic
def attend_group(
    typing: Any,
    kv_kind: Any,
    query_kind: Any,
    keys: Any,
    values: Any,
    query: Any,
    scores: Any,
    sums: Any,
    peaks: Any,
    totals: Any,
    scale: Any,
    row: Any,
    count: Any,
    d: Any,
    width: Any,
    group: Any,
    ahead: Any,
    moving: Any,
) -> Any:
    """Attend with the heads of a group to `count` <= `BLOCK` tokens of the cache.

    Parameters
    ----------
    kv_kind, query_kind: their types are the formats of the cache, and of the query: float32, or
        bfloat16 where `DOT_BFLOAT16` and d is a multiple of 2 `LANES`.
    keys, values: addresses of the first token's head.
    query: address of (group, width), zeros beyond d.
    scores: address of (8, BLOCK) float32 to work in.
    sums, peaks, totals: addresses of (group, width), (group,) and (group,) float32: weighted
        values, highest score in powers of two, and weights, of all tokens so far.
    scale: factor of the scores that turns them into powers of two.
    row: elements from one token to the next.
    d: head width.
    width: the same, rounded up to whole vectors.
    group: number of heads.
    ahead: bytes from `keys` and `values` to what to prefetch meanwhile.
    moving: 1, or 0 where there is nothing to prefetch.
    """

    def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Value:
        values = dict(zip(Tile.__annotations__, arguments[2:], strict=True))
        done = LONG(0)
        for heads in (8, 4, 2, 1):
            stop = b.sub(values["group"], b.srem(values["group"], LONG(heads)))
            with cgutils.for_range_slice(b, done, stop, LONG(heads), LONG) as (first, _):
                tile = Tile(b, values, kv_kind, query_kind, heads)
                tile.skip(first)
                tile.scores_of_block()
                tile.values_of_block(tile.weights_of_block())
            done = stop
        return context.get_dummy_value()

    integer = types.intp
    return types.void(kv_kind, query_kind, *[integer] * 7, types.float32, *[integer] * 7), emit
