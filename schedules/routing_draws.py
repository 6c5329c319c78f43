"""Random numbers and draws for routing: each a function of its place alone.

A token's numbers come from its place (sequence, position) by a hash, not from a generator with a
state, so it takes the same experts in whatever order and company it is asked for.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Counters = NDArray[np.uint64]
Ranks = NDArray[np.signedinteger]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
ATTEMPTS = 4  # draws of a further expert before the exact, slower way; few tokens need it


def stream_key(*place: int) -> int:
    """A key of 64 bits for a stream of random numbers, from whole numbers >= 0."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])


def counters(sequences: int, length: int, first: int = 0) -> Counters:
    """The places of `length` tokens of each of `sequences` sequences, shape (sequences, length)."""
    rows = np.arange(first, first + sequences, dtype=np.uint64) << np.uint64(32)
    return np.asarray(rows[:, None] | np.arange(length, dtype=np.uint64))


def uniforms(key: int, places: Counters) -> FloatArray:
    """Numbers in [0, 1), one for each place.

    The output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014, figure 16), with the place as the counter.
    """
    z = places * _STEP
    z += np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= _FIRST
    z ^= z >> np.uint64(27)
    z *= _SECOND
    z ^= z >> np.uint64(31)
    z >>= np.uint64(11)
    return np.asarray(z * 2.0**-53)


def popularity(n_experts: int, exponent: float, active: int | None = None) -> FloatArray:
    """Probabilities by rank, the most popular first: r^-s of Zipf's law, shape (n_experts,).

    >>> popularity(4, 1.0).round(2).tolist(), popularity(4, 0.0, active=2).tolist()
    ([0.48, 0.24, 0.16, 0.12], [0.5, 0.5, 0.0, 0.0])
    """
    weights = np.arange(1, n_experts + 1, dtype=np.float64) ** -exponent
    weights[n_experts if active is None else active :] = 0.0
    return np.asarray(weights / weights.sum())


def draw_distinct(weights: FloatArray, top_k: int, key: int, places: Counters) -> Ranks:
    """`top_k` distinct ranks for each of n places, shape (n, top_k), one drawn after another.

    A further one is drawn from the ranks that are left, in proportion to their weights; repeating
    a draw until it is new is the same. At least `top_k` weights must be above 0.
    """
    dtype = np.int16 if len(weights) < 2**15 else np.int32
    out = np.empty((len(places), top_k), dtype=dtype)
    last = np.flatnonzero(weights)[-1]
    edges = np.cumsum(weights)[:last]  # a number beyond the last edge means the last rank
    out[:, 0] = np.searchsorted(edges, uniforms(key, places), side="right")
    for slot in range(1, top_k):
        open_ = np.arange(len(places))
        for attempt in range(ATTEMPTS):
            drawn = uniforms(_salted(key, slot, attempt), places[open_])
            out[open_, slot] = np.searchsorted(edges, drawn, side="right")
            repeated = (out[open_, :slot] == out[open_, slot, None]).any(axis=1)
            open_ = open_[repeated]
        drawn = uniforms(_salted(key, slot, ATTEMPTS), places[open_])
        out[open_, slot] = _draw_rest(weights, out[open_, :slot], drawn)
    return out


def draw_uniform(
    rng: np.random.Generator, tokens: int, n_experts: int, top_k: int
) -> NDArray[np.int64]:
    """Distinct experts, all sets equally likely, shape (tokens, top_k).

    Every expert gets a number and a token takes those with the smallest; some rows at a time, so
    that the numbers stay in the processor's cache.
    """
    out = np.empty((tokens, top_k), dtype=np.int64)
    size = max(1, 2**16 // n_experts)
    for start in range(0, tokens, size):
        rows = out[start : start + size]
        numbers = rng.random((len(rows), n_experts))
        if top_k == 1:
            rows[:, 0] = np.argmin(numbers, axis=1)
        else:
            rows[:] = np.argsort(numbers, axis=1)[:, :top_k]
    return out


def _draw_rest(weights: FloatArray, taken: Ranks, drawn: FloatArray) -> Ranks:
    """One more rank for each row of `taken`, from those that are left."""
    out = np.empty(len(taken), dtype=taken.dtype)
    size = max(1, 2**22 // len(weights))  # rows at a time: some tens of MB
    for start in range(0, len(taken), size):
        rows = slice(start, start + size)
        left = np.tile(weights, (len(taken[rows]), 1))
        np.put_along_axis(left, taken[rows].astype(np.int64), 0.0, axis=1)
        edges = np.cumsum(left, axis=1)
        wanted = drawn[rows, None] * edges[:, -1:]
        out[rows] = np.argmax((edges > wanted) & (left > 0), axis=1)
    return out


def _salted(key: int, slot: int, attempt: int) -> int:
    return stream_key(key, slot, attempt)
