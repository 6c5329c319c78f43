"""A part of a tensor of a checkpoint."""

from typing import NamedTuple


class Place(NamedTuple):
    """Rows [start, stop) of a tensor of this shape; of matrix `expert` of it if it is 3-D."""

    tensor: str
    shape: tuple[int, ...]
    start: int
    stop: int
    expert: int = 0
