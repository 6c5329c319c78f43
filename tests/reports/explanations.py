"""An explanation by hand: 100 s, most of them due to a link; a second resource is close behind."""

from typing import Any


def path_row(op: str, stream: str, critical_s: float) -> dict[str, Any]:
    return {
        "op": op,
        "stream": stream,
        "tasks": 10,
        "critical_s": critical_s,
        "share": critical_s / 100,
    }


def idle_row(stream: str, cause: str, idle_s: float, op=None, on=None) -> dict[str, Any]:
    names = {"stream": stream, "cause": cause, "op": op, "on": on}
    return {**names, "idle_s": idle_s, "share": idle_s / 100}


def resource_row(
    name: str, critical_s: float, faster: float, slower: float, partner: str | None = None
) -> dict[str, Any]:
    numbers = {"critical_s": critical_s, "elasticity": critical_s / 100}
    both = {"partner": partner, "together": None if partner is None else 0.025}
    return {"resource": name, **numbers, "faster": faster, "slower": slower, **both}


def slack_row(op: str, stream: str, mean_s: float) -> dict[str, Any]:
    counts = {"tasks": 1200, "critical": 10 if mean_s == 0 else 0}
    return {"op": op, "stream": stream, **counts, "least_s": 0, "mean_s": mean_s, "most_s": 1}


def bound_row(kind: str, what: str, bound_s: float) -> dict[str, Any]:
    return {"kind": kind, "what": what, "bound_s": bound_s, "ratio": 100 / bound_s}


def phase_row(phase: str, makespan_s: float, resource: str) -> dict[str, Any]:
    return {"phase": phase, "makespan_s": makespan_s, "resource": resource, "share": 0.9}


def lost_row(channel: str, op: str, stream: str, critical_s: float) -> dict[str, Any]:
    names = {"channel": channel, "op": op, "stream": stream, "tasks": 1200}
    return {
        **names,
        "lost_s": 1.5 * critical_s,
        "critical_s": critical_s,
        "share": critical_s / 100,
    }


def explanation(**changes: Any) -> dict[str, Any]:
    """What the file says, with some keys changed."""
    found = {
        "schedule": "toy",
        "throughput_tok_s": 12.5,
        "makespan_s": 100.0,
        "bottleneck": ["links.h2d"],
        "method": "critical path",
        "critical_path": [path_row("load", "h2d", 80.0), path_row("compute", "gpu", 20.0)],
        "idle": [
            idle_row("host", "dependency", 90.0, "compute", "gpu"),
            idle_row("h2d", "dependency", 12.0, "compute", "gpu"),
            idle_row("h2d", "end", 8.0),
            idle_row("gpu", "dependency", 60.0, "load", "h2d"),
            idle_row("gpu", "end", 0.01),
            idle_row("disk", "end", 100.0),
        ],
        "bounds": [
            bound_row("stream", "h2d", 80.0),
            bound_row("resource", "links.h2d", 79.0),
            bound_row("issued chain", "dependencies, issuing and waits", 70.0),
            bound_row("chain", "dependencies", 60.0),
        ],
        "sensitivities": [
            resource_row("links.h2d", 80.0, 0.07, -0.08),
            resource_row("gpu.compute.float16.experts", 19.97, 0.001, -0.02, "links.pin"),
            resource_row("host.sync_s", 0.03, 0.0, 0.0),
        ],
        "phases": [phase_row("prefill", 25.0, "links.h2d"), phase_row("decode", 75.0, "links.h2d")],
        "slack": [slack_row("load", "h2d", 0.0), slack_row("compute", "gpu", 0.5)],
        "sharing": [],
    }
    return {**found, **changes}
