"""Where the sequences of a micro-batch lie in a KV block.

A block holds the keys of its sequences, token by token, and then their values:
(rows, KV heads, head width) each. A sequence owns as many rows as its prompt and its generated
tokens will fill.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from schedules.batching import MicroBatch
from schedules.contents import KVSpan


class Share(NamedTuple):
    """Sequences [first, stop) of a micro-batch, and the rows that they own together."""

    first: int
    stop: int
    rows: int
    offsets: tuple[int, ...]


@dataclass
class KVLayout:
    """Sizes of KV blocks.

    Parameters
    ----------
    heads, head_dim, bytes_per_element: of keys and of values on this GPU.
    """

    batches: Sequence[MicroBatch]
    gen_len: int
    heads: int
    head_dim: int
    bytes_per_element: int
    _shares: dict[KVSpan, Share] = field(default_factory=dict)

    def share(self, span: KVSpan) -> Share:
        """The sequences of a share: whole ones, their borders rounded to the nearest.

        Shares that meet leave out no sequence and hold none twice.
        """
        if span not in self._shares:
            self._shares[span] = self._share(span)
        return self._shares[span]

    def _share(self, span: KVSpan) -> Share:
        room = [length + self.gen_len for length in self.batches[span.micro_batch].prompt_lengths]
        edges = np.concatenate([[0], np.cumsum(room)])
        first, stop = (
            int(np.argmin(np.abs(edges - share * edges[-1]))) for share in (span.start, span.stop)
        )
        offsets = (edges[first:stop] - edges[first]).tolist()
        return Share(first, stop, int(edges[stop] - edges[first]), tuple(offsets))

    def block_bytes(self, span: KVSpan) -> int:
        """Bytes of the keys and values of a share, or of one of the two."""
        return self._half_bytes(self.share(span)) * (2 if span.half == "both" else 1)

    @property
    def row_bytes(self) -> int:
        """Bytes of the keys of one token."""
        return self.heads * self.head_dim * self.bytes_per_element

    @property
    def longest_bytes(self) -> int:
        """Keys and values of the longest sequence."""
        longest = max(batch.longest for batch in self.batches)
        return 2 * (longest + self.gen_len) * self.row_bytes

    def _half_bytes(self, share: Share) -> int:
        return share.rows * self.row_bytes
