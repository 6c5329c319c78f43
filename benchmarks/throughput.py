"""Tokens/s of every schedule on this machine, beside transformers and accelerate's offload.

Run `python benchmarks/throughput.py [--json FILE]`; `--help` lists what can be chosen.

A Mixtral with random weights is written by transformers once, and every system generates greedily
for the same prompts (all of one length, so that none pads) within the same budget of GPU memory,
the systems in turns. Policies follow one rule (`systems.fitting_policy`): schedules of one batch
get the largest batch that fits, the others all prompts in four micro-batches, and then as large a
share of the weights on the GPU as fits.

On the CPU a second region of host memory stands for the GPU, and copies to and from it are held to
`--link-bandwidth`. accelerate's weights come as copies at the same rate, in batches as large as
those of the schedule `accelerate`, and are computed with as many threads as the schedules' device
has. transformers runs with all weights resident and with all cores: it is what the schedules would
be without a budget.

Columns: N and mu, micro-batch; medians of tokens/s over the rounds, smallest and largest; the share
of the bound, which is the work of the busiest stream over the makespan, and what the simulator
makes of the measured tasks over what was measured; peak of the GPU's memory, as measured, as the
schedule said, and what it may use; how many times as fast as accelerate.

The last lines compare runs of CGOPipe that note when each task ran with runs that do not.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from systems import Timed, fitting_policy, run_schedule
from throughput_baselines import (
    LIBRARY,
    System,
    accelerate_system,
    paced_accelerate_system,
    transformers_system,
)
from throughput_model import SIZES, Size, random_prompts, write_checkpoint
from transformers.utils import logging

from runtime.checkpoint import Checkpoint
from runtime.device import DeviceOptions
from runtime.environment import provenance
from schedules.errors import Infeasible
from schedules.schedule import find_schedule, runnable

BASELINE = "accelerate"
HOST_BYTES = 1 << 36
MICRO_BATCHES = 4
RECORDED = "cgopipe"  # the schedule whose recording is timed: it has the most tasks


def all_systems(
    names: Sequence[str], source: Checkpoint, folder: Path, size: Size, options: DeviceOptions
) -> tuple[list[System], dict[str, str]]:
    """The systems, and why schedules are missing."""
    prompts, spec = random_prompts(size), source.architecture.spec
    found, missing = [transformers_system(folder, size, options, prompts)], {}
    for name in names:
        kind = find_schedule(name)
        try:
            policy = fitting_policy(kind, spec, prompts, size.gen_len, options, MICRO_BATCHES, {})
        except Infeasible as error:
            missing[name] = str(error)
            continue
        arguments = (kind, source, policy, prompts, size.gen_len, options)
        note = f"r_w={policy.r_w:g}" if policy.r_w else ""
        run = _bind(run_schedule, *arguments)
        found.append(System(name, policy.N, policy.mu, note, run))
    batches = [system.batch for system in found if system.name == BASELINE]
    if options.device == "cuda":
        found.append(accelerate_system(folder, size, options, prompts))
    elif batches:
        found.append(paced_accelerate_system(folder, size, options, prompts, batches[0]))
    return found, missing


def _bind(function: Callable[..., Timed], *arguments: Any) -> Callable[[], Timed]:
    return lambda: function(*arguments)


def same_function() -> list[str]:
    """Schedules whose tokens are those of the model."""
    return [name for name, kind in runnable().items() if kind.change is None]


def take_turns(systems: Sequence[System], rounds: int) -> None:
    """A round that does not count, then `rounds` that do."""
    for number in range(rounds + 1):
        for system in systems:
            done = system.run()
            if number:
                system.rounds.append(done)


def recording_overhead(
    source: Checkpoint, size: Size, options: DeviceOptions, pairs: int
) -> dict[str, Any]:
    """What noting the times of all tasks costs: seconds with it over seconds without it.

    Runs in pairs, the order changing from pair to pair: the ratio of the medians of all decode
    steps, and of their first quartiles, which other programs on the machine disturb less.
    """
    kind, prompts = find_schedule(RECORDED), random_prompts(size)
    spec = source.architecture.spec
    policy = fitting_policy(kind, spec, prompts, size.gen_len, options, MICRO_BATCHES, {})
    arguments = (kind, source, policy, prompts, size.gen_len, options)
    steps: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        for record in (True, False) if pair % 2 else (False, True):
            steps[record] += run_schedule(*arguments, record=record).step_s
    low, middle, _ = (
        a / b
        for a, b in zip(*(statistics.quantiles(steps[r], n=4) for r in (True, False)), strict=True)
    )
    return {
        "schedule": RECORDED,
        "pairs": pairs,
        "ratio": middle,
        "ratio_of_quartiles": low,
        "step_s": {"with": steps[True], "without": steps[False]},
    }


def same_tokens(systems: Sequence[System]) -> dict[str, bool]:
    """Whether each system's tokens, in every round, are those of the first one."""
    expected = systems[0].rounds[0].tokens
    return {s.name: all(r.tokens == expected for r in s.rounds) for s in systems}


def print_table(rows: Sequence[Mapping[str, Any]], baseline: float | None, budget: int) -> None:
    """One line for each system, fastest first."""
    head = ("system", "N/mu", "policy", "tokens/s", "(min-max)", "of bound", "simulated")
    sizes = f"{'peak':>8} {'predicted':>9} {'budget':>8}"
    print(
        f"{head[0]:27} {head[1]:>9} {head[2]:10} {head[3]:>9} {head[4]:>15} {head[5]:>9} "
        f"{head[6]:>9} {sizes} {'x ' + BASELINE:>12}"
    )
    for row in sorted(rows, key=lambda r: -r["tokens_per_s"]):
        spread = f"({row['tokens_per_s_min']:.1f}-{row['tokens_per_s_max']:.1f})"
        used, said = (_megabytes(row[key]) for key in ("peak_bytes", "predicted_bytes"))
        allowed = _megabytes(budget) if row["peak_bytes"] else ""
        faster = f"{row['tokens_per_s'] / baseline:.2f}" if baseline else ""
        print(
            f"{row['name']:27} {row['N']:>4}/{row['mu']:<4} {row['policy']:10} "
            f"{row['tokens_per_s']:9.1f} {spread:>15} {_percent(row['bound_share']):>9} "
            f"{_percent(row['simulated_share']):>9} {used:>8} {said:>9} {allowed:>8} {faster:>12}"
        )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and write JSON if asked for; returns what was found."""
    asked = _parser().parse_args(arguments)
    size = _changed(SIZES[asked.size], asked)
    rate = size.link_bytes_per_s if asked.device == "cpu" else None
    options = DeviceOptions(asked.device, size.gpu_bytes, HOST_BYTES, link_bytes_per_s=rate)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(asked, size, options, write_checkpoint(size, Path(folder)))
    report(found, size)
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def measure(
    asked: argparse.Namespace, size: Size, options: DeviceOptions, folder: Path
) -> dict[str, Any]:
    """All systems and the overhead of recording, as plain values."""
    source = Checkpoint(folder)
    systems, missing = all_systems(
        asked.schedules or same_function(), source, folder, size, options
    )
    take_turns(systems, asked.rounds)
    rows = [system.to_dict() for system in systems]
    baseline = next((r["tokens_per_s"] for r in rows if r["name"] == LIBRARY), None)
    for row in rows:
        row["speedup"] = row["tokens_per_s"] / baseline if baseline else None
    presets = {"size": asked.size} | vars(size) | {"threads": list(options.threads)}
    return {
        "systems": rows,
        "missing": missing,
        "same_tokens": same_tokens(systems),
        "recording": recording_overhead(source, size, options, asked.pairs),
        "provenance": provenance(0, presets, asked.device),
    }


def report(found: Mapping[str, Any], size: Size) -> None:
    """Print the table, the missing schedules, the check of the tokens and recording's cost."""
    rows, where = found["systems"], found["provenance"]["environment"]
    print(
        f"Mixtral of {size.layers} layers, {size.hidden} wide, {size.dtype}, on {where['device']}; "
        f"{size.prompts} prompts of {size.prompt_len} tokens, {size.gen_len} generated"
    )
    baseline = next((r["tokens_per_s"] for r in rows if r["name"] == LIBRARY), None)
    print_table(rows, baseline, size.gpu_bytes)
    for name, reason in found["missing"].items():
        print(f"{name}: {reason}")
    other = [name for name, same in found["same_tokens"].items() if not same]
    print(f"the same greedy tokens in all systems: {'no: ' + ', '.join(other) if other else 'yes'}")
    cost = found["recording"]
    print(
        f"recording ({cost['schedule']}): decode steps take x {cost['ratio']:.4f} in the median of "
        f"{cost['pairs']} pairs of runs, x {cost['ratio_of_quartiles']:.4f} in the first quartile"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("schedules", nargs="*", help="default: all")
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--gpu-memory", type=float, metavar="GB", help="the budget")
    parser.add_argument("--link-bandwidth", type=float, metavar="GB/S", help="of the host device")
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--prompt-len", type=int)
    parser.add_argument("--gen-len", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=9, help="of runs with and without recording")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _changed(size: Size, asked: argparse.Namespace) -> Size:
    values = vars(size) | {
        "prompts": asked.prompts or size.prompts,
        "prompt_len": asked.prompt_len or size.prompt_len,
        "gen_len": asked.gen_len or size.gen_len,
    }
    if asked.gpu_memory is not None:
        values["gpu_bytes"] = int(asked.gpu_memory * 1e9)
    if asked.link_bandwidth is not None:
        values["link_bytes_per_s"] = asked.link_bandwidth * 1e9
    return Size(**values)


if __name__ == "__main__":
    main()
