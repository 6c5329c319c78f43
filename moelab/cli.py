"""The command line."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from moelab import __version__, options
from moelab.output import check_distinct, check_target, show, write_json
from schedules.errors import BadInput, Infeasible, MoelabError

TIMELINES = (".html", ".parquet", ".json")

app = typer.Typer(
    name="moelab",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""How Mixture-of-Experts models run on GPUs that are too small for them.

moelab simulates schedules (who moves which bytes when, and what is computed meanwhile) on machines
that you need not have, and shows where the time goes.

**Start with**

    moelab compare --model mixtral-8x7b --hardware gcp-t4-24c --workload mtbench --report page.html

Names come from `moelab list`; own models, machines and workloads are given by path. Exit code 2
means that the question was wrong (one sentence says why), 1 that the run failed.
""",
)


class Catalogue(StrEnum):
    """What can be listed."""

    models = "models"
    hardware = "hardware"
    workloads = "workloads"
    schedules = "schedules"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moelab {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command("list")
def list_(
    what: Annotated[Catalogue, typer.Argument(help="Which presets to list.")],
    json: options.JsonFile = None,
) -> None:
    """List the models, machines, workloads or schedules that have a name."""
    from moelab.catalogue import entries
    from reports.tables import catalogue_table

    check_target(json)
    found = entries(what.value)
    show(json, catalogue_table(what.value, found))
    write_json(json, {what.value: found})


@app.command()
def simulate(
    schedule: Annotated[str, typer.Argument(help="A schedule (`moelab list schedules`).")],
    model: options.Model,
    hardware: options.Machine,
    workload: options.Requests,
    gen_len: options.GenLen = None,
    batch: options.Batch = None,
    micro_batch: options.MicroBatch = None,
    policy: options.PolicyItems = None,
    padded: options.Padded = None,
    gpus: options.Gpus = None,
    seed: options.Seed = 0,
    timeline: Annotated[
        Path | None,
        typer.Option(help="Write the timeline: .html (a page), .parquet (rows), .json (Perfetto)."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="Phases of the timeline: `0` is prefill, `1-3` decode steps; `all`."),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Simulate one schedule over a whole generation: prefill and all decode steps."""
    from moelab.timelines import parse_steps, write_timeline_file
    from reports.tables import results_table
    from schedules.policy import parse_assignments
    from sim.api import simulate as run

    check_target(json)
    check_target(timeline, TIMELINES)
    check_distinct(timeline, json)
    if steps is not None and timeline is None:
        raise BadInput("--steps chooses what a timeline shows; give --timeline FILE as well")
    values = parse_assignments(policy or [])
    result = run(
        schedule, model, hardware, workload, gen_len, batch, micro_batch, values, padded, gpus, seed
    )
    if timeline is not None:
        phases = parse_steps(steps, result.generation.steps, timeline.suffix)
        write_timeline_file(result.timeline(phases), timeline)
    show(json, results_table([result.to_dict()]), *_written(timeline))
    write_json(json, result.to_dict())


@app.command()
def compare(
    model: options.Model,
    hardware: options.Machine,
    workload: options.Requests,
    schedules: Annotated[
        list[str] | None, typer.Argument(metavar="[SCHEDULE]...", help="Default: all.")
    ] = None,
    gen_len: options.GenLen = None,
    batch: options.Batch = None,
    micro_batch: options.MicroBatch = None,
    policy: options.PolicyItems = None,
    padded: options.Padded = None,
    gpus: options.Gpus = None,
    seed: options.Seed = 0,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the comparison as one page (.html) that opens offline."),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Compare schedules on the same model, machine and workload, each with its best policy."""
    from moelab.timelines import comparison_page
    from reports.tables import results_table
    from schedules.policy import parse_assignments
    from sim.api import compare as run

    check_target(json)
    check_target(report, (".html",))
    check_distinct(report, json)
    values = parse_assignments(policy or [])
    comparison = run(
        schedules or None,
        model,
        hardware,
        workload,
        gen_len,
        batch,
        micro_batch,
        values,
        padded,
        gpus,
        seed,
    )
    found = comparison.to_dict()
    if report is not None:
        comparison_page(comparison, report)
    show(json, results_table(found["results"]), *_written(report))
    write_json(json, found)


@app.command()
def validate(
    published: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Published figures; default: those of the package."),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Simulate published figures and print simulated, published and error."""
    from moelab.validation import validation_parts
    from sim.published import read_published
    from sim.validate import validate as run

    check_target(json)
    found = run(read_published(published))
    show(json, *validation_parts(found))
    write_json(json, found)


@app.command("run")
def run_(
    schedule: Annotated[str, typer.Argument(help="A schedule (`moelab list schedules`).")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    gpu_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Budget of the device's memory, such as 16GiB.")
    ],
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A Hugging Face folder with safetensors.")
    ] = None,
    random_weights: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Random weights of a preset or of a config.json."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="With random weights: take that many layers.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help='Prompts, one per line: `{"prompt": "..."}` or `{"prompt_token_ids": [...]}`.',
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option("--workload", "-w", help="Draw `--batch` prompts with a workload's lengths."),
    ] = None,
    gen_len: options.GenLen = None,
    batch: Annotated[
        int | None, typer.Option("--batch", "-N", help="Batch size N; default: all prompts.")
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option("--micro-batch", "-u", help="Micro-batch size mu; default: a fourth of N."),
    ] = None,
    policy: options.PolicyItems = None,
    device: Annotated[options.DeviceName, typer.Option(help="Where to run.")] = (
        options.DeviceName.cuda
    ),
    dtype: Annotated[
        options.DTypeName | None, typer.Option(help="Of all tensors; default: the model's own.")
    ] = None,
    host_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Host memory; default: 90 % of it.")
    ] = None,
    link_bandwidth: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="With --device cpu: hold each copy to, say, 2GB/s."),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(metavar="D,C", help="Threads of the (host) device and of CPU attention."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most likely tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likely share p.")] = None,
    seed: Annotated[int, typer.Option(help="Of sampling, drawn prompts, random weights.")] = 0,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Generate all tokens, as benchmarks do.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was interrupted.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the tokens with the reference model's.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write the PyTorch profiler's trace as well.")
    ] = False,
    check_weights: Annotated[
        bool,
        typer.Option("--check-weights/--no-check-weights", help="Look for NaN in a checkpoint."),
    ] = True,
    json: options.JsonFile = None,
) -> None:
    """Run a schedule for real: generate tokens within a memory budget, and measure every task."""
    from moelab import running
    from moelab.amounts import parse_bytes, parse_rate
    from schedules.policy import parse_assignments
    from schedules.workload_presets import load_workload

    check_target(json)
    running.check_installed()
    from runtime.device import DeviceOptions
    from runtime.run import Output, Question, run
    from runtime.sampling_settings import Sampling

    asked = Question(
        schedule=schedule,
        checkpoint=checkpoint,
        random_weights=random_weights,
        layers=layers,
        prompts=prompts,
        workload=None if workload is None else load_workload(workload, gen_len, padded=False),
        gen_len=gen_len,
        batch=batch,
        micro_batch=micro_batch,
        policy=parse_assignments(policy or []),
        dtype=None if dtype is None else dtype.value,
        sampling=Sampling(temperature, top_k, top_p, seed),
        ignore_eos=ignore_eos,
    )
    gpu_threads, cpu_threads = running.parse_threads(threads)
    limits = DeviceOptions(
        device=device.value,
        gpu_memory_bytes=parse_bytes(gpu_memory, "--gpu-memory"),
        host_memory_bytes=(
            running.host_memory_bytes()
            if host_memory is None
            else parse_bytes(host_memory, "--host-memory")
        ),
        link_bytes_per_s=(
            None if link_bandwidth is None else parse_rate(link_bandwidth, "--link-bandwidth")
        ),
        gpu_threads=gpu_threads,
        cpu_threads=cpu_threads,
    )
    outcome = run(asked, limits, Output(out, resume, verify, profile, check_weights))
    if outcome is None:
        return
    show(json, *running.outcome_parts(outcome, out))
    write_json(json, dict(outcome.result))
    if outcome.verification is not None and not outcome.verification.ok:
        raise MoelabError("the tokens are not those of the reference model; see verification.json")


def _written(path: Path | None) -> list[str]:
    return [] if path is None else [f"Written: {path.resolve()}"]


def expand(arguments: Sequence[str]) -> list[str]:
    """Let `--policy` take several words: `--policy r_w=0.1 A_g=1`."""
    out: list[str] = []
    after_policy = False
    for word in arguments:
        if after_policy and "=" in word and not word.startswith("-"):
            if out[-1] != "--policy":
                out.append("--policy")
        else:
            after_policy = word in ("--policy", "-p")
            word = "--policy" if after_policy else word
        out.append(word)
    return out


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line; a user's mistake ends in one sentence and exit code 2."""
    try:
        return app(expand(sys.argv[1:] if arguments is None else arguments))
    except (BadInput, Infeasible) as error:
        typer.echo(f"moelab: {error}", err=True)
        raise SystemExit(2) from None
    except MoelabError as error:
        typer.echo(f"moelab: {error}", err=True)
        raise SystemExit(getattr(error, "exit_code", 1)) from None
