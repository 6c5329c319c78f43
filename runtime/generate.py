"""All prompts through the model, batch after batch, each in a session of its own."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from runtime.batches import Batch, IntArray, Sequences, split
from runtime.journal import Finished, Journal
from runtime.outcome import BatchRecord
from runtime.progress import Meter, Silent
from schedules.errors import MoelabError
from schedules.lengths import positive_int
from schedules.movement import exposed_transfer_s, moe_block_s, moved_bytes
from schedules.timeline import COLUMNS, Timeline


class SessionLike(Protocol):
    """One generation on one node; what `runtime.session.Session` offers here.

    Parameters
    ----------
    streams: in the order of lanes.
    issuing_s: by stream, time at work that is in no task: the host's issuing.
    peak_bytes, predicted_bytes, capacity_bytes: by pool.
    moe_layers: the decoder layers with experts.
    """

    @property
    def streams(self) -> Sequence[str]: ...
    @property
    def issuing_s(self) -> Mapping[str, float]: ...
    @property
    def peak_bytes(self) -> Mapping[str, int]: ...
    @property
    def predicted_bytes(self) -> Mapping[str, int]: ...
    @property
    def capacity_bytes(self) -> Mapping[str, int]: ...

    @property
    def moe_layers(self) -> Sequence[int]: ...

    def facts(self) -> Mapping[str, float]:
        """What the schedule knows of the run so far."""

    def prefill(self) -> IntArray:
        """The first token of every prompt, in their order."""

    def decode_step(self) -> IntArray:
        """The next token of every prompt."""

    def tasks(self) -> Sequence[Sequence[Any]]:
        """Rows with the columns of a timeline; times count from the start of prefill."""

    def routing(self) -> pd.DataFrame | None:
        """Which experts the tokens took; `request` counts the prompts of the batch."""

    def close(self) -> None:
        """Give everything back."""


OpenSession = Callable[[Batch], SessionLike]
Keep = Callable[[BatchRecord, Timeline, pd.DataFrame | None], None]


class Interrupted(MoelabError):
    """The user stopped the run; what is finished is in the journal."""

    exit_code = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True)
class Generated:
    """What came of a run.

    Parameters
    ----------
    sequences: all, in the order of the prompts.
    records: measurements of the batches that ran now; see `files.RunFiles.records` for all.
    differing: sequences of earlier, interrupted runs for which other tokens came out this time.
    """

    sequences: tuple[Finished, ...]
    records: tuple[BatchRecord, ...]
    differing: int = 0


def _keep_nothing(record: BatchRecord, timeline: Timeline, routing: pd.DataFrame | None) -> None:
    pass


def generate(
    open_session: OpenSession,
    prompts: Sequence[tuple[int, ...]],
    gen_len: int,
    batch_size: int,
    eos_token_ids: Collection[int],
    journal: Journal,
    meter: Meter | None = None,
    keep: Keep = _keep_nothing,
    routing: bool = False,
) -> Generated:
    """Generate for all prompts, in batches of `batch_size` in their order.

    A sequence that is finished is in the journal before the next step begins; it goes on being
    computed until all of its batch are finished, and what comes after its end is dropped. A batch
    whose sequences are all in the journal already is skipped; one with some of them runs whole
    again, so that the shapes are the same and the tokens too.

    `keep` receives the measurements of each batch at its end, with `routing` also the experts that
    its tokens took (a row per token, layer and step: large). Raises what the session raises, after
    closing it, and `Interrupted` for Ctrl-C.
    """
    positive_int(gen_len, "gen_len")
    run = _Run(open_session, gen_len, eos_token_ids, journal, meter or Silent(), keep, routing)
    batches = split(prompts, batch_size)
    try:
        for batch in batches:
            run.batch(batch, f"batch {batch.number + 1}/{len(batches)}")
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted with {len(journal.finished)} of {len(prompts)} sequences finished and "
            f"saved; the same command with --resume goes on from there"
        ) from None
    sequences = tuple(journal.finished[i] for i in range(len(prompts)))
    return Generated(sequences, tuple(run.records), run.differing)


@dataclass
class _Run:
    open_session: OpenSession
    gen_len: int
    eos_token_ids: Collection[int]
    journal: Journal
    meter: Meter
    keep: Keep
    routing: bool

    def __post_init__(self) -> None:
        self.records: list[BatchRecord] = []
        self.differing = 0

    def batch(self, batch: Batch, name: str) -> None:
        """Run a batch, unless it is finished."""
        sequences = Sequences(batch, self.gen_len, self.eos_token_ids, self.journal.finished)
        if not sequences.done:
            self.meter.phase(f"{name}: loading")
            start_s = time.perf_counter()
            with _closing(self.open_session(batch)) as session:
                setup_s = time.perf_counter() - start_s
                step_s = self._steps(session, sequences, name)
                self._record(batch, session, sequences.positions, [setup_s, *step_s])
        self.meter.skip((self.gen_len - sequences.positions) * len(batch))
        self.differing += sequences.differing

    def _steps(self, session: SessionLike, sequences: Sequences, name: str) -> list[float]:
        """Prefill and decode steps; returns the seconds of each."""
        seconds: list[float] = []
        while not sequences.done:
            self.meter.phase(f"{name}: {'decode' if seconds else 'prefill'}")
            start_s = time.perf_counter()
            ids = session.decode_step() if seconds else session.prefill()
            seconds.append(time.perf_counter() - start_s)
            self.journal.add(sequences.add(ids))
            self.meter.advance(len(ids))
        return seconds

    def _record(
        self, batch: Batch, session: SessionLike, positions: int, seconds: Sequence[float]
    ) -> None:
        timeline = make_timeline(session.tasks(), session.streams, f"batch {batch.number + 1}")
        setup_s, prefill_s, *step_s = seconds
        record = BatchRecord(
            number=batch.number,
            first=batch.first,
            size=len(batch),
            positions=positions,
            setup_s=setup_s,
            prefill_s=prefill_s,
            step_s=tuple(step_s),
            busy_s=busy_s(timeline, session.issuing_s),
            tasks=len(timeline),
            peak_bytes=dict(session.peak_bytes),
            predicted_bytes=dict(session.predicted_bytes),
            capacity_bytes=dict(session.capacity_bytes),
            issuing_s=sum(session.issuing_s.values()),
            moved_bytes=moved_bytes(timeline.frame),
            exposed_s=exposed_transfer_s(timeline.frame),
            moe_block_s=moe_block_s(timeline.frame, session.moe_layers),
            facts=dict(session.facts()),
        )
        self.records.append(record)
        self.keep(record, timeline, session.routing() if self.routing else None)


def make_timeline(rows: Sequence[Sequence[Any]], streams: Sequence[str], name: str) -> Timeline:
    """The timeline of rows: sorted by phase, start and order of streams, and counted anew."""
    frame = pd.DataFrame(list(rows), columns=[*COLUMNS]).astype(COLUMNS)
    lane = frame["stream"].map({stream: i for i, stream in enumerate(streams)})
    frame = frame.assign(lane=lane).sort_values(["step", "start_s", "lane"], kind="stable")
    frame = frame.drop(columns="lane").reset_index(drop=True)
    frame["task"] = range(len(frame))
    return Timeline(frame.astype(COLUMNS), tuple(streams), name)


def busy_s(timeline: Timeline, issuing_s: Mapping[str, float]) -> dict[str, float]:
    """Seconds that each stream was at work: its tasks, and for the host its issuing."""
    frame = timeline.frame
    sums = (frame["end_s"] - frame["start_s"]).groupby(frame["stream"]).sum().to_dict()
    return {s: float(sums.get(s, 0.0)) + issuing_s.get(s, 0.0) for s in timeline.streams}


@contextmanager
def _closing(session: SessionLike) -> Iterator[SessionLike]:
    """Close the session at the end; an error of the run is not hidden by one of closing it."""
    try:
        yield session
    except BaseException:
        with suppress(Exception):
            session.close()
        raise
    session.close()
