"""Why a generation takes as long as it does, in sentences made from `moelab explain --json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.units import percent, ratio, seconds, significant

Explanation = Mapping[str, Any]
"""What `moelab explain --json` writes."""

MUCH = 0.05
"""Resources behind a smaller share of the critical path are not spoken of."""

NAMES = {
    "links.h2d": "the link to the GPU",
    "links.d2h": "the link from the GPU",
    "links.h2d_pageable": "copies of pageable memory to the GPU",
    "links.d2h_pageable": "copies from the GPU to pageable memory",
    "links.pin": "the CPU thread that copies weights into pinned memory",
    "links.pin_parallel": "the threads that copy into pinned memory",
    "links.peer": "the link between the GPUs",
    "links.disk": "the disk",
    "gpu.memory_bandwidth": "the memory bandwidth of the GPU",
    "cpu.memory_bandwidth": "the memory bandwidth of the CPU",
    "gpu.call_s": "launches on the GPU",
    "cpu.call_s": "parallel regions of the CPU",
    "link_call_s": "fixed costs of copies",
    "peer_call_s": "the latency between the GPUs",
    "host.issue_s": "issuing",
    "host.task_s": "issuing tasks",
    "host.sync_s": "synchronising",
    "host.ffn_s": "the host's work after each FFN",
    "channels.cpu": "the host's DRAM as streams share it",
    "channels.gpu": "the GPU's memory as streams share it",
    "channels.host_link": "the path between host and GPUs as streams share it",
    "channels.cores": "the host's cores as threads share them",
    "channels.queue": "waiting for host memory",
    "emulated.copy_rate": "threads that copy in place of the link",
}
CLASSES = {"gemm": "dense layers", "experts": "the experts", "attention": "attention"}
CHANNELS = {
    "cpu": "the host's DRAM",
    "host_link": "the path between host and GPUs",
    "cores": "the host's cores",
    "queue": "waiting for host memory",
}
BY_DIFFERENCES = (
    "Tasks share channels, so their lengths depend on one another: shares of the time due to a "
    "resource are by differences, simulated with its rate a little higher and a little lower."
)

CHAINS = {
    "chain": "Tasks that depend on one another",
    "issued chain": "Dependencies, issuing in this order and its waits",
}


def in_words(resource: str) -> str:
    """A resource as a person says it.

    >>> in_words("gpu.compute.float16.experts"), in_words("links.disk")
    ("the GPU's arithmetic in the experts", 'the disk')
    """
    parts = resource.split(".")
    if parts[1:2] == ["compute"]:
        device, _, _, kernel = parts
        return f"the {device.upper()}'s arithmetic in {CLASSES.get(kernel, kernel)}"
    return NAMES.get(resource, resource)


def story(found: Explanation) -> list[str]:
    """Paragraphs: the bottleneck, the phases, sharing, what else binds, the bound, idle streams."""
    return [
        _bottleneck(found),
        *_phases(found["phases"]),
        *_sharing(found["sharing"]),
        *_others(found),
        *([BY_DIFFERENCES] if found["method"] == "differences" else []),
        *_bounds(found["bounds"]),
        *_idle(found),
    ]


def _bottleneck(found: Explanation) -> str:
    speed = f"{found['schedule']} generates {significant(found['throughput_tok_s'])} tokens/s"
    first = found["sensitivities"][0]
    name = f"{in_words(first['resource'])} ({first['resource']})"
    due = f"{percent(first['elasticity'])} of the time is due to"
    slower = f"10 % slower, it falls by {percent(-first['slower'])}"
    if first["partner"] is None:
        return (
            f"{speed}. The bottleneck is {name}: {due} it; 10 % faster, the throughput rises by "
            f"{percent(first['faster'])}, {slower}."
        )
    other = f"{in_words(first['partner'])} ({first['partner']})"
    return (
        f"{speed}. Two resources bind together: {name} and {other}. {due[0].upper()}{due[1:]} the "
        f"first; 10 % faster alone, the throughput rises by {percent(first['faster'])} only, both "
        f"10 % faster, by {percent(first['together'])}; with the first {slower}."
    )


def _phases(phases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What binds prefill, and what decode, where they differ."""
    if len({phase["resource"] for phase in phases}) < 2:
        return []
    total = sum(phase["makespan_s"] for phase in phases)
    parts = [
        f"{phase['phase']} ({percent(phase['makespan_s'] / total)} of the time) is bound by "
        f"{in_words(phase['resource'])}, {percent(phase['share'])} of it"
        for phase in phases
    ]
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."]


def _sharing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the critical path is lost to each channel, where it matters, and by which tasks."""
    found = []
    for channel in dict.fromkeys(row["channel"] for row in rows):
        own = [row for row in rows if row["channel"] == channel]
        share = sum(row["share"] for row in own)
        if share >= MUCH:
            most = max(own, key=lambda row: row["critical_s"])
            found.append(
                f"Of the critical path {percent(share)} is lost to sharing {shared(channel)} "
                f"(channel {channel}): {seconds(sum(row['critical_s'] for row in own))}, most of "
                f"them by {most['op']} on {most['stream']}."
            )
    return found


def shared(channel: str) -> str:
    """What streams share, as a person says it.

    >>> shared("cpu"), shared("gpu1")
    ("the host's DRAM", 'the memory of GPU 1')
    """
    number = channel.removeprefix("gpu")
    return CHANNELS.get(channel, f"the memory of GPU {number}" if number else "the GPU's memory")


def _others(found: Explanation) -> list[str]:
    """The other resources of the critical path that matter, and what they would gain."""
    return [
        f"{percent(row['elasticity'])} of the time is due to {in_words(row['resource'])} "
        f"({row['resource']}): 10 % faster {_gain(row)}, 10 % slower -{percent(-row['slower'])}."
        for row in found["sensitivities"]
        if row["elasticity"] >= MUCH and row["resource"] not in found["bottleneck"]
    ]


def _gain(row: Mapping[str, Any]) -> str:
    if row["partner"] is None:
        return f"+{percent(row['faster'])}"
    return (
        f"only +{percent(row['faster'])}, as {in_words(row['partner'])} binds as well (both "
        f"+{percent(row['together'])})"
    )


def _bounds(bounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far the busiest stream lets any order go; and a chain that takes longer than that."""
    work = next(bound for bound in bounds if bound["kind"] == "stream")
    found = [
        f"No order of the same tasks takes less than {seconds(work['bound_s'])}, the work of "
        f"stream {work['what']}; this one takes {ratio(work['ratio'])} that."
    ]
    chain = bounds[0]
    if chain["kind"] in CHAINS:
        found.append(
            f"{CHAINS[chain['kind']]} alone take {seconds(chain['bound_s'])}, however much the "
            f"streams do at once; the run takes {ratio(chain['ratio'])} that."
        )
    return found


def _idle(found: Explanation) -> list[str]:
    """What the stream waits for that is busiest, if it does so for a part that matters."""
    idle = found["idle"]
    busy = {row["stream"]: 1.0 for row in found["slack"]}  # streams that run tasks
    for row in idle:
        if row["stream"] in busy:
            busy[row["stream"]] -= row["share"]
    if not busy:
        return []
    stream = max(busy, key=lambda name: busy[name])
    own = [row for row in idle if row["stream"] == stream and row["share"] >= MUCH]
    if not own:
        return []
    most = max(own, key=lambda row: row["share"])
    lost = percent(1 - busy[stream])
    return [f"The busiest stream, {stream}, is idle {lost} of the time, mostly {because(most)}."]


def because(row: Mapping[str, Any]) -> str:
    """The cause of idle time as part of a sentence.

    >>> because({"cause": "dependency", "op": "load_weights", "on": "h2d"})
    'waiting for load_weights on h2d'
    >>> because({"cause": "end", "op": None, "on": None})
    'with nothing left to do'
    """
    task = f"{row['op']} on {row['on']}"
    match row["cause"]:
        case "dependency":
            return f"waiting for {task}"
        case "thread":
            return f"as tasks were not issued, the thread held by {task}"
        case "issuing":
            return "as issuing takes its time"
        case "first":
            start = "before the first task"
            return start if row["op"] is None else f"{start}, waiting for {task}"
        case _:
            return "with nothing left to do"
