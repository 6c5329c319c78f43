"""The processes of a run that write no files: they follow the first, which does."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from runtime.journal import Finished


@dataclass
class Shadow:
    """The journal of a process that writes no files: another one does."""

    finished: dict[int, Finished]

    def add(self, sequences: Iterable[Finished]) -> None:
        """Keep them in memory."""
        self.finished |= {s.index: s for s in sequences}


def share_finished(world: int, finished: Mapping[int, Finished] | None) -> dict[int, Finished]:
    """What the first process has read from its journal (None in the others), in every process."""
    if world == 1:
        return dict(finished or {})
    rows = [[s.index, list(s.token_ids), s.finish] for s in (finished or {}).values()]
    text = json.dumps(rows).encode()
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    size = torch.tensor([len(text)], device=device)
    dist.broadcast(size, 0)
    data = torch.zeros(int(size), dtype=torch.uint8, device=device)
    if finished is not None:
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, 0)
    found = json.loads(bytes(data.cpu().tolist()))
    return {i: Finished(i, tuple(ids), finish) for i, ids, finish in found}
