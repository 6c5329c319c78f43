"""The command line."""

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from moelab import __version__, options, run_options
from moelab.asking import Asked, asks
from moelab.calibrating import calibrate
from moelab.comparing_run import compare_run
from moelab.crossing import crossover
from moelab.explaining import explain
from moelab.optimal import optimal
from moelab.output import check_distinct, check_target, show, write_json
from schedules.errors import BadInput, Infeasible, MoelabError

TIMELINES = (".html", ".parquet", ".json")
TRACEBACK = "MOELAB_TRACEBACK"
"""A variable: set, an error shows where in the program it was met, for authors of schedules."""
OBJECTS = 50_000
"""New ones before Python looks for circles: at its own 700 a tenth of a short command's time."""

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
means that the question was wrong (one sentence says why), 1 that the run failed; with
`MOELAB_TRACEBACK=1` in the environment, it also says where in the program.
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
@asks
def simulate(
    schedule: Annotated[str, typer.Argument(help="A schedule (`moelab list schedules`).")],
    asked: Asked,
    engine: options.Engine = options.EngineName.compiled,
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
    from schedules.schedule import find_schedule
    from sim.api import run

    check_target(json)
    check_target(timeline, TIMELINES)
    check_distinct(timeline, json)
    if steps is not None and timeline is None:
        raise BadInput("--steps chooses what a timeline shows; give --timeline FILE as well")
    asked = replace(asked, engine=engine.value)
    result = run(asked.scenario(), find_schedule(schedule), asked.given())
    if timeline is not None:
        phases = parse_steps(steps, result.generation.steps, timeline.suffix)
        write_timeline_file(result.timeline(phases), timeline)
    found = result.to_dict()
    show(json, results_table([found]), *_written(timeline))
    write_json(json, found)


@app.command()
@asks
def compare(
    asked: Asked,
    schedules: Annotated[
        list[str] | None, typer.Argument(metavar="[SCHEDULE]...", help="Default: all.")
    ] = None,
    engine: options.Engine = options.EngineName.compiled,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the comparison as one page (.html) that opens offline."),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Compare schedules on the same model, machine and workload, each with its best policy."""
    from moelab.timelines import comparison_page
    from reports.tables import results_table
    from sim.api import compare_in

    check_target(json)
    check_target(report, (".html",))
    check_distinct(report, json)
    asked = replace(asked, engine=engine.value)
    comparison = compare_in(asked.scenario(), schedules or None, asked.given())
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
    ablate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Errors without a part of the physics, by name, or `all`; repeat."
        ),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Simulate published figures and print simulated, published and error."""
    from moelab.validation import ablated, ablation_parts, validation_parts
    from sim.published import read_published
    from sim.validate import validate as run

    check_target(json)
    if ablate:
        studied = ablated(read_published(published), ablate)
        show(json, *ablation_parts(studied))
        write_json(json, {"ablations": studied})
        return
    found = run(read_published(published))
    show(json, *validation_parts(found))
    write_json(json, found)


@app.command("run")
def run_(
    schedule: Annotated[str, typer.Argument(help="A schedule (`moelab list schedules`).")],
    *,
    checkpoint: run_options.Checkpoint = None,
    random_weights: run_options.RandomWeights = None,
    layers: run_options.Layers = None,
    dtype: run_options.DType = None,
    predictor: run_options.Predictor = None,
    no_check_weights: run_options.NoCheckWeights = False,
    prompts: run_options.Prompts = None,
    workload: run_options.Workload = None,
    gen_len: run_options.GenLen = None,
    ignore_eos: run_options.IgnoreEos = False,
    batch: run_options.Batch = None,
    micro_batch: run_options.MicroBatch = None,
    policy: run_options.PolicyItems = None,
    modify: run_options.ModifierItems = None,
    device: run_options.Device = options.DeviceName.cuda,
    gpu_memory: run_options.GpuMemory,
    host_memory: run_options.HostMemory = None,
    link_bandwidth: run_options.LinkBandwidth = None,
    threads: run_options.Threads = None,
    temperature: run_options.Temperature = 0.0,
    top_k: run_options.TopK = None,
    top_p: run_options.TopP = None,
    seed: run_options.Seed = 0,
    out: run_options.Out,
    resume: run_options.Resume = False,
    verify: run_options.Verify = False,
    profile: run_options.Profile = False,
    json: run_options.JsonFile = None,
) -> None:
    """Run a schedule for real: generate tokens within a memory budget, and measure every task."""
    from moelab import running
    from schedules.modifiers import make_modifiers, parse_modifiers
    from schedules.schedule import find_schedule
    from schedules.workload_presets import load_workload

    check_target(json)
    check_distinct(json, out)
    running.check_installed()
    find_schedule(schedule)
    n, mu, values = running.policy_values(batch, micro_batch, policy or [])
    drawn = None if workload is None else load_workload(workload, gen_len, padded=False)
    running.load_libraries()
    from runtime.run import Output, Question, run
    from runtime.sampling_settings import Sampling

    asked = Question(
        schedule=schedule,
        checkpoint=checkpoint,
        random_weights=random_weights,
        layers=layers,
        prompts=prompts,
        workload=drawn,
        gen_len=gen_len,
        batch=n,
        micro_batch=mu,
        policy=values,
        predictor=predictor,
        modifiers=make_modifiers(parse_modifiers(modify or [])),
        dtype=None if dtype is None else dtype.value,
        sampling=Sampling(temperature, top_k, top_p, seed),
        ignore_eos=ignore_eos,
    )
    limits = running.device_options(device.value, gpu_memory, host_memory, link_bandwidth, threads)
    outcome = run(asked, limits, Output(out, resume, verify, profile, not no_check_weights))
    if outcome is None:
        return
    show(json, *running.outcome_parts(outcome, out))
    write_json(json, dict(outcome.result))
    if outcome.verification is not None and not outcome.verification.ok:
        raise MoelabError("the tokens are not those of the reference model; see verification.json")


@app.command()
def replay(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR", help="Folders that `moelab run` has left.")
    ],
    report: Annotated[
        Path | None,
        typer.Option(help="Write both timelines below each other as one page (.html)."),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            help="Write the simulated timeline of one run: .html, .parquet or .json (Perfetto)."
        ),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Simulate a measured run with its own task durations: how well do the two clocks agree?"""
    from moelab.replaying import replay_run
    from moelab.timelines import write_timeline_file
    from reports.replay_page import write_replays
    from reports.replay_table import busy_table, times_table

    check_target(json)
    check_target(report, (".html",))
    check_target(timeline, TIMELINES)
    for first, second in ((report, timeline), (report, json), (timeline, json)):
        check_distinct(first, second)
    if timeline is not None and len(runs) > 1:
        raise BadInput(f"--timeline shows one run, and {len(runs)} folders were given")
    found = [replay_run(path) for path in runs]
    values = [one.to_dict() for one in found]
    if report is not None:
        write_replays([one.both() for one in found], report)
    if timeline is not None:
        write_timeline_file(found[0].timeline(), timeline)
    show(json, times_table(values), "", busy_table(values), *_written(report), *_written(timeline))
    write_json(json, {"replays": values})


app.command()(calibrate)
app.command("compare-run")(compare_run)
app.command()(crossover)
app.command()(explain)
app.command()(optimal)


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
    if arguments is None:
        gc.set_threshold(OBJECTS)
    try:
        return app(expand(sys.argv[1:] if arguments is None else arguments))
    except MoelabError as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        several = os.environ.get("WORLD_SIZE", "1") != "1"  # processes, under torchrun
        speaker = f"moelab (rank {os.environ.get('RANK')})" if several else "moelab"
        typer.echo(f"{speaker}: {error}", err=True)
        wrong = isinstance(error, BadInput | Infeasible)
        raise SystemExit(2 if wrong else getattr(error, "exit_code", 1)) from None
