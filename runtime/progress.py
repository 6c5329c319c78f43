"""How far a run is, on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

REFRESH_PER_S = 2  # each refresh takes the interpreter from the worker threads for a moment


class Meter(Protocol):
    """What `generate` tells; tokens are those of all sequences together."""

    def phase(self, text: str) -> None:
        """What is being done now."""

    def advance(self, tokens: int) -> None:
        """So many more tokens were computed."""

    def skip(self, tokens: int) -> None:
        """So many tokens need not be computed: they are known, or their sequences ended."""


class Silent:
    """Shows nothing."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def advance(self, tokens: int) -> None:
        """Nothing."""

    def skip(self, tokens: int) -> None:
        """Nothing."""


class _Rate(ProgressColumn):
    """Computed tokens per second since the start of the run."""

    def render(self, task: Task) -> Text:
        computed, elapsed_s = task.fields["computed"], task.elapsed or 0.0
        return Text(f"{computed / elapsed_s:.3g} tokens/s" if elapsed_s and computed else "")


class _Bar:
    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total, computed=0)
        self._computed = 0

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def advance(self, tokens: int) -> None:
        self._computed += tokens
        self._bar.update(self._task, advance=tokens, computed=self._computed)

    def skip(self, tokens: int) -> None:
        self._bar.update(self._task, advance=tokens)


@contextmanager
def progress_bar(tokens: int, wanted: bool | None = None) -> Iterator[Meter]:
    """A bar over `tokens`. `wanted` None: only where standard error is a terminal."""
    console = Console(stderr=True)
    if not (console.is_terminal if wanted is None else wanted):
        yield Silent()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} tokens"),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=REFRESH_PER_S) as bar:
        yield _Bar(bar, tokens)
