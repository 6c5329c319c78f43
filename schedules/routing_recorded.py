"""Recorded routing: what the gates of a run chose, for that workload or for another.

The format is that of `routing.parquet`, a row for each token in each layer; see `routing_table`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256 as hash_of
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schedules.errors import BadInput
from schedules.model_layers import Stack
from schedules.routing_table import N_EXPERTS, IntArray, expert_columns, read_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Part:
    """The prompts, or the decode steps, of all recorded sequences.

    Parameters
    ----------
    layers: indices of the MoE layers.
    starts: the tokens of sequence s are `starts[s]` to `starts[s + 1]`, shape (sequences + 1,).
    experts: shape (layers, tokens, top_k).
    """

    layers: tuple[int, ...]
    starts: IntArray
    experts: NDArray[np.signedinteger]

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    def ids(self, layer: int, sequences: IntArray, index: IntArray) -> IntArray:
        """Experts of the `index`-th token of each sequence, which starts again at its end."""
        tokens = self.starts[sequences] + index % self.lengths[sequences]
        return np.asarray(self.experts[self.layers.index(layer), tokens], dtype=np.int64)


class Recording:
    """Recorded sequences and the experts of their tokens.

    Parameters
    ----------
    frame: the rows, in any order.
    where: names the file in errors.
    n_experts: of the model that was recorded; None: not known.

    Raises `BadInput` for rows that are not those of a run.
    """

    def __init__(self, frame: "pd.DataFrame", where: str, n_experts: int | None = None) -> None:
        self.where = where
        self.n_experts = n_experts
        columns = read_columns(frame, where)
        self.top_k = len(expert_columns(frame))
        names = np.stack([columns["batch"], columns["request"]], axis=1)
        every, sequence = np.unique(names, axis=0, return_inverse=True)
        self.first_batch = int(np.count_nonzero(every[:, 0] == every[0, 0]))
        columns["sequence"] = sequence.ravel()
        self.prompts = self._part(columns, columns["step"] == 0, len(every))
        self.decode = self._part(columns, columns["step"] > 0, len(every))

    def _part(
        self, columns: dict[str, IntArray], rows: NDArray[np.bool_], sequences: int
    ) -> Part | None:
        if not rows.any():
            return None
        kept = {key: values[rows] for key, values in columns.items()}
        key = [kept[name] for name in ("position", "step", "sequence", "layer")]
        order = np.lexsort(key)
        layers = np.unique(kept["layer"])
        place = np.stack(key[:3])[:, order]
        tokens = place.shape[1] // len(layers)
        shaped = place[:, : tokens * len(layers)].reshape(3, len(layers), tokens)
        alike = (shaped == shaped[:, :1]).all() and tokens * len(layers) == place.shape[1]
        if not alike or (np.diff(shaped[:, 0], axis=1) == 0).all(axis=0).any():
            raise BadInput(
                f"'{self.where}': every token of every layer needs one row; layers "
                f"{', '.join(map(str, layers))} do not have the same tokens, or have some twice"
            )
        experts = np.stack([kept[f"expert_{i}"] for i in range(self.top_k)], axis=1)[order]
        counts = np.bincount(shaped[2, 0], minlength=sequences)
        return Part(
            tuple(layers.tolist()),
            np.concatenate([[0], np.cumsum(counts)]),
            experts.reshape(len(layers), tokens, self.top_k).astype(np.int32),
        )

    # -- what there is ---------------------------------------------------------------------------

    def of(self, prompts: bool) -> Part:
        """The prompts or the decode steps; where there are none, the others stand in for them."""
        first, second = (self.prompts, self.decode) if prompts else (self.decode, self.prompts)
        part = first if first is not None else second
        assert part is not None
        return part

    def check(self, n_experts: int, top_k: int) -> None:
        """Raises `BadInput` unless the recorded model has as many experts and takes as many."""
        if top_k != self.top_k:
            raise BadInput(
                f"'{self.where}' has {self.top_k} experts per token; the model takes {top_k}"
            )
        if self.n_experts not in (None, n_experts):
            raise BadInput(
                f"'{self.where}' is of a model with {self.n_experts} experts in a layer; this one "
                f"has {n_experts}"
            )
        if self.last_expert >= n_experts:
            raise BadInput(
                f"'{self.where}' has expert {self.last_expert}; those of the model are 0 to "
                f"{n_experts - 1}"
            )

    @cached_property
    def last_expert(self) -> int:
        """The highest expert id."""
        parts = [part for part in (self.prompts, self.decode) if part is not None]
        return max(int(part.experts.max()) for part in parts)

    def check_layers(self, layers: Sequence[int], prompts: bool, needed_for: str) -> None:
        """Raises `BadInput` when one of the layers was not recorded."""
        there = self.of(prompts).layers
        missing = sorted(set(layers) - set(there))
        if missing:
            raise BadInput(
                f"'{self.where}' lacks layer {missing[0]}, which {needed_for} has; it has "
                f"{', '.join(map(str, there))}"
            )

    # -- what is answered ------------------------------------------------------------------------

    def picks(self, seed: int, lengths: Sequence[int]) -> IntArray:
        """Which recorded sequence stands for each prompt of `lengths` tokens.

        Where the first batch, or the whole run, has just these lengths, its own; else whole
        sequences at random, each as often as the others.
        """
        there = self.of(True).lengths
        n = len(lengths)
        whole = self.decode is None or bool((self.decode.lengths[:n] > 0).all())
        if whole and n in (self.first_batch, len(there)) and np.array_equal(there[:n], lengths):
            return np.arange(n)
        return self.drawn(seed, len(lengths))

    def drawn(self, seed: int, n: int) -> IntArray:
        """`n` whole sequences at random; the first ones do not depend on `n`."""
        parts = [part for part in (self.prompts, self.decode) if part is not None]
        whole = np.flatnonzero(np.all([part.lengths > 0 for part in parts], axis=0))
        if len(whole) == 0:
            raise BadInput(f"'{self.where}' has no sequence with a prompt and decode steps")
        rounds = range(-(-n // len(whole)))
        shuffled = [np.random.default_rng([seed, r]).permutation(whole) for r in rounds]
        return np.concatenate([whole[:0], *shuffled])[:n]

    def ids(
        self, layer: int, prompts: bool, sequences: IntArray, positions: IntArray, steps: IntArray
    ) -> IntArray:
        """Expert ids, shape (tokens, top_k), of recorded sequences.

        A prompt's token is found by its position, a decoded one by its step (from 0); what is
        longer than the record starts again at its beginning.
        """
        self.check_layers([layer], prompts, "the model")
        part = self.of(prompts)
        by_step = part is self.decode and not prompts
        return part.ids(layer, sequences, steps if by_step else positions)

    def shares(
        self, n_experts: int, top_k: int, stack: Stack, layer: int | None
    ) -> NDArray[np.float64]:
        """Share of the tokens that take each expert, shape (layers, n_experts).

        The encoder's tokens are those of the prompts, the decoder's those of decode steps, or of
        the prompts where no decode step was recorded.
        """
        self.check(n_experts, top_k)
        part = self.of(stack == "encoder")
        if layer is not None:
            self.check_layers([layer], stack == "encoder", "the model")
        rows = part.experts if layer is None else part.experts[[part.layers.index(layer)]]
        counts = [np.bincount(row.ravel(), minlength=n_experts) for row in rows]
        return np.asarray(np.array(counts) / rows.shape[1])


def recording(path: str, sha256: str | None = None) -> Recording:
    """The recording in a file; read again only when the file has changed.

    Raises `BadInput` for a file that is missing, malformed, or not the one with this hash.
    """
    try:
        stat = Path(path).stat()
    except OSError:
        raise BadInput(f"the file '{path}' with recorded routing does not exist") from None
    found = _recording(path, stat.st_mtime_ns, stat.st_size)
    if sha256 is not None and file_hash(path, stat.st_mtime_ns) != sha256:
        raise BadInput(f"'{path}' is not the recorded routing that was asked for: its hash differs")
    return found


@lru_cache(maxsize=8)
def file_hash(path: str, changed_ns: int) -> str:
    """SHA-256 of a file's content; `changed_ns` is when it was last changed."""
    return hash_of(Path(path).read_bytes()).hexdigest()


@lru_cache(maxsize=4)
def _recording(path: str, changed_ns: int, size: int) -> Recording:
    import pyarrow as pa  # slow to import; most simulations have no recorded routing
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"'{path}' cannot be read as Parquet: {error}") from None
    said = (table.schema.metadata or {}).get(N_EXPERTS)
    return Recording(table.to_pandas(), path, int(said) if said and said.isdigit() else None)
