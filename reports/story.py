"""What a comparison says, in sentences made from its numbers alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.units import percent, ratio, significant

Result = Mapping[str, Any]
"""What `moelab simulate --json` writes for one schedule."""

AS_BUSY = 0.9
"""A schedule whose busiest stream works at least this share of what the winner's works is as busy:
it is slower because a token costs it more, not because it waits."""

TIE = 1.005
"""Throughputs within half a per cent of each other count as equal."""


def feasible(results: Sequence[Result]) -> list[Result]:
    """The results that fit into memory, the fastest first."""
    fitting = [result for result in results if result["feasible"]]
    return sorted(fitting, key=lambda result: -result["throughput_tok_s"])


def busiest(result: Result) -> tuple[str, float]:
    """The stream that works the largest share of the run, and that share.

    >>> busiest({"utilization": {"h2d": 0.9, "gpu": 0.4}})
    ('h2d', 0.9)
    """
    used: Mapping[str, float] = result["utilization"]
    stream = max(used, key=lambda name: used[name])
    return stream, used[stream]


def bound_tok_s(result: Result) -> float:
    """Throughput, tokens/s, if the run took no longer than its lower bound."""
    return float(result["throughput_tok_s"] * result["makespan_s"] / result["lower_bound_s"])


def over_bound(result: Result) -> float:
    """How many times its lower bound a run took (1 is the best there can be)."""
    return float(result["makespan_s"] / result["lower_bound_s"])


def headline(results: Sequence[Result]) -> str:
    """Who wins, and by how much.

    >>> headline([{"schedule": "a", "feasible": True, "throughput_tok_s": 50.0},
    ...           {"schedule": "b", "feasible": True, "throughput_tok_s": 20.0}])
    'a is fastest: 50.0 tokens/s, 2.5× b.'
    """
    ranked = feasible(results)
    if not ranked:
        return (
            f"None of the {len(results)} schedules fits."
            if len(results) > 1
            else "It does not fit."
        )
    best, *others = ranked
    speed = f"{significant(best['throughput_tok_s'])} tokens/s"
    if not others:
        only = ", the only schedule that fits" if len(results) > 1 else ""
        return f"{best['schedule']} generates {speed}{only}."
    return f"{best['schedule']} is fastest: {speed}, {_and([_lead(best, o) for o in others])}."


def reason(results: Sequence[Result]) -> str:
    """Why: how busy each schedule keeps its busiest stream, and what a token costs on it."""
    ranked = feasible(results)
    if not ranked:
        return "Nothing could be timed; the table says what was missing."
    best, *others = ranked
    stream, share = busiest(best)
    start = f"It keeps its busiest stream, {stream}, busy {percent(share)} of the time"
    if not others:
        return f"{start} and takes {ratio(over_bound(best))} its lower bound."
    slack = [other for other in others if busiest(other)[1] < AS_BUSY * share]
    if slack:
        start += f", against {_and([_its_busiest(other) for other in slack])}"
    return "; ".join([start, *(_contrast(best, o) for o in others if o not in slack)]) + "."


def _lead(best: Result, other: Result) -> str:
    lead = best["throughput_tok_s"] / other["throughput_tok_s"]
    return (
        f"{ratio(lead)} {other['schedule']}" if lead >= TIE else f"level with {other['schedule']}"
    )


def _its_busiest(result: Result) -> str:
    stream, share = busiest(result)
    return f"{percent(share)} ({stream}) for {result['schedule']}"


def _contrast(best: Result, other: Result) -> str:
    """What a token costs on the other's busiest stream, as it is busy and yet slower."""
    stream, share = busiest(other)
    sentence = f"{other['schedule']} is as busy ({stream} {percent(share)})"
    own = share / other["throughput_tok_s"]  # busy seconds per token: the makespan cancels out
    least = best["utilization"].get(stream, 0.0) / best["throughput_tok_s"]
    if least == 0:
        return f"{sentence} on a stream that {best['schedule']} does without"
    if own >= 1.05 * least:
        return f"{sentence} but needs {ratio(own / least)} as much {stream} time per token"
    return f"{sentence} and needs as much {stream} time per token"


def _and(parts: Sequence[str]) -> str:
    """A list in words.

    >>> _and(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
