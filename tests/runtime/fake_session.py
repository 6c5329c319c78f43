"""A session that is a formula.

The token after a prompt at a position depends on nothing else, as a model's does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from runtime.batches import Batch
from runtime.generate import Generated, generate
from runtime.journal import Journal

EOS = 3
PROMPTS = [(1, 2, 3), (5,), (1, 2, 3), (9, 9), (4, 4, 4, 4), (8,), (7, 1)]


def token(prompt: tuple[int, ...], position: int) -> int:
    return (sum(prompt) * 31 + len(prompt) * 7 + position * position * 5) % 11


def expected(prompt: tuple[int, ...], gen_len: int, eos: int = EOS) -> tuple[int, ...]:
    tokens: list[int] = []
    while len(tokens) < gen_len and eos not in tokens:
        tokens.append(token(prompt, len(tokens)))
    return tuple(tokens)


@dataclass
class Fake:
    """A session; `hook(batch, position)` runs before each step."""

    batch: Batch
    hook: Callable[[Batch, int], None] = lambda batch, position: None
    position: int = -1
    closed: int = 0
    streams: tuple[str, ...] = ("host", "gpu")
    issuing_s: dict[str, float] = field(default_factory=lambda: {"host": 0.5})
    moe_layers: tuple[int, ...] = (0,)
    peak_bytes: dict[str, int] = field(default_factory=lambda: {"gpu": 100})
    predicted_bytes: dict[str, int] = field(default_factory=lambda: {"gpu": 90})
    capacity_bytes: dict[str, int] = field(default_factory=lambda: {"gpu": 128})

    def facts(self):
        return {}

    def prefill(self) -> np.ndarray:
        assert self.position == -1
        return self.decode_step()

    def decode_step(self) -> np.ndarray:
        assert not self.closed
        self.position += 1
        self.hook(self.batch, self.position)
        return np.array([token(p, self.position) for p in self.batch.prompts])

    def tasks(self) -> list[tuple]:
        rows = [
            (i, "step", "gpu", -1, -1, i, 0.0 + i, 0.75 + i, 1.0, 2.0, 0.0)
            for i in range(self.position + 1)
        ]
        return [*rows, (9, "sample", "host", -1, -1, 0, 0.0, 0.25, 0.0, 0.0, 0.0)]

    def routing(self) -> pd.DataFrame:
        return pd.DataFrame({"request": range(len(self.batch))})

    def close(self) -> None:
        self.closed += 1


@dataclass
class Sessions:
    """Opens sessions and remembers them."""

    hook: Callable[[Batch, int], None] = lambda batch, position: None
    opened: list[Fake] = field(default_factory=list)

    def __call__(self, batch: Batch) -> Fake:
        assert all(session.closed for session in self.opened)  # one at a time
        self.opened.append(Fake(batch, self.hook))
        return self.opened[-1]


def question(prompts=PROMPTS, gen_len=6) -> dict:
    return {"n_prompts": len(prompts), "gen_len": gen_len}


def run(
    folder: Path, sessions: Sessions, size=3, gen_len=6, prompts=PROMPTS, resume=False, **options
) -> Generated:
    options = {"eos_token_ids": (EOS,)} | options
    with Journal(folder, question(prompts, gen_len), resume) as journal:
        eos = options.pop("eos_token_ids")
        return generate(sessions, prompts, gen_len, size, eos, journal, **options)


def tokens(generated: Generated) -> list[tuple[int, ...]]:
    return [s.token_ids for s in generated.sequences]


def stop_at(number: int, position: int, error: BaseException) -> Callable[[Batch, int], None]:
    def hook(batch: Batch, at: int) -> None:
        if (batch.number, at) == (number, position):
            raise error

    return hook
