"""Held-out runs: schedules, policies and lengths to which a calibration was not fitted.

Each is run twice for real, and simulated with the preset; the second time when all have run once,
so that what disturbs a machine for a while meets it once. The two runs say how far a measurement
differs from itself: no simulator can be closer than that. Where they differ by much, the run is
repeated, and its median counts.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moelab.calibration_folder import CalibrationFiles
from moelab.compared_run import compared
from moelab.repeated import REPEATS, enough, makespans, middle
from reports.files import write_text
from schedules.lengths import Fixed, Listed
from schedules.task import DType
from schedules.workload import Workload

if TYPE_CHECKING:
    from runtime.device import DeviceOptions

SOURCE = "Held-out runs of moelab calibrate --check"


@dataclass(frozen=True)
class Asked:
    """One workload: so many prompts of these lengths, so many tokens generated."""

    name: str
    prompts: int
    lengths: tuple[int, ...]
    gen_len: int

    def workload(self) -> Workload:
        """As a run takes it."""
        one = len(self.lengths) == 1
        lengths = Fixed(tokens=self.lengths[0]) if one else Listed(lengths=self.lengths)
        return Workload(
            name=self.name,
            prompt_lengths=lengths,
            gen_len=self.gen_len,
            padded=False,
            source=SOURCE,
        )


@dataclass(frozen=True)
class HeldOut:
    """A run: a schedule, its policy, and its budget as a share of the model's weights."""

    schedule: str
    asked: Asked
    micro_batch: int
    budget: float
    policy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """Sizes of a Mixtral, and the prompts that it is asked."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    experts: int = 8
    vocab: int = 4096

    def config(self, dtype: str) -> dict[str, Any]:
        """As `config.json` says it."""
        return {
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "num_local_experts": self.experts,
            "num_experts_per_tok": 2,
            "vocab_size": self.vocab,
            "max_position_embeddings": 4096,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
        }

    def weights_bytes(self, size: int) -> int:
        """Of all layers, `size` bytes an element."""
        width = self.hidden // self.heads
        attention = self.hidden * width * 2 * (self.heads + self.kv_heads)
        return size * self.layers * (3 * self.hidden * self.ffn * self.experts + attention)


MODELS = {
    "quick": Model(64, 96, 4, 4, 2, vocab=256),
    "cpu": Model(640, 1536, 5, 10, 5),
    "cuda": Model(2048, 5632, 6, 16, 4, vocab=16384),
}
SIZES = {"quick": (8, (8, 5), 3), "cpu": (32, (48, 80, 64, 72), 12), "cuda": (96, (300, 500), 24)}
"""Prompts, their lengths and tokens to generate, of the first workload; others follow from it."""


def cases(kind: str) -> tuple[HeldOut, ...]:
    """The held-out runs of a device: seven schedules, three workloads, three budgets."""
    n, lengths, gen_len = SIZES[kind]
    varied = Asked("varied", n, lengths, gen_len)
    long = Asked("long", n // 2, (2 * max(lengths),), max(2, 2 * gen_len // 3))
    short = Asked("short", 3 * n // 2, (max(2, min(lengths) // 2),), gen_len + gen_len // 3)
    return (
        HeldOut("cgopipe", varied, n // 4, 0.9),
        HeldOut("fastdecode", varied, n // 4, 0.9),
        HeldOut("flexgen", varied, n // 4, 0.9),
        HeldOut("flexgen-cpu", varied, n // 2, 0.9),
        HeldOut("zero-inference", varied, n, 0.9),
        HeldOut("cgopipe", long, n // 8, 0.75, {"r_w": 0.2}),
        HeldOut("flexgen", long, n // 4, 0.75),
        HeldOut("accelerate", long, n // 2, 0.75),
        HeldOut("on-demand", long, n // 2, 0.75),
        HeldOut("cgopipe", short, n // 2, 1.1, {"r_w": 0.4}),
        HeldOut("fastdecode", short, n // 4, 1.1),
        HeldOut("flexgen-cpu", short, n // 4, 1.1, {"r_w": 0.2}),
        HeldOut("zero-inference", short, 3 * n // 2, 1.1),
        HeldOut("prefetch-all", short, 3 * n // 2, 1.1),
    )


def check_runs(
    files: CalibrationFiles,
    options: "DeviceOptions",
    dtype: DType,
    quick: bool,
    progress: Callable[[int, int, str], None],
) -> dict[str, Any]:
    """Run and simulate all of them; the errors are also written beside the preset.

    Raises `MoelabError` for a run that fails.
    """
    kind = "quick" if quick else options.device
    every = cases(kind)
    allowed = [
        _allowed(MODELS[kind], case, options, 4 if dtype == "float32" else 2) for case in every
    ]
    times: list[list[Mapping[str, float]]] = [[] for _ in every]
    simulated: list[Mapping[str, float]] = [{} for _ in every]
    done = 0
    with tempfile.TemporaryDirectory(prefix="moelab-check-") as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(MODELS[kind].config(dtype)), encoding="utf-8")
        while wanted := [i for i, own in enumerate(times) if not enough(makespans(own))]:
            for number, i in enumerate(wanted):
                left, case = len(wanted) - number, every[i]
                progress(done, done + left, f"{case.schedule}, {case.asked.name} prompts")
                measured, simulated[i] = _run(case, config, allowed[i], dtype, files.preset)
                times[i].append(measured)
                done += 1
    progress(done, done, "")
    budgets = [one.gpu_memory_bytes for one in allowed]
    found = summary(list(map(_row, every, times, simulated, budgets)))
    write_text(files.check, json.dumps(found, indent=2) + "\n")
    return found


def _allowed(model: Model, case: HeldOut, options: "DeviceOptions", size: int) -> "DeviceOptions":
    budget = case.budget * model.weights_bytes(size)
    reserve = 320 << 20 if options.device == "cuda" else 0
    return replace(options, gpu_memory_bytes=int(budget) + reserve)


def _run(
    case: HeldOut, config: Path, options: "DeviceOptions", dtype: DType, preset: Path
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """One run, measured, and simulated with its own routing."""
    from runtime.run import run
    from runtime.run_options import Output, Question

    asked = case.asked
    question = Question(
        case.schedule,
        random_weights=str(config),
        workload=asked.workload(),
        gen_len=asked.gen_len,
        batch=asked.prompts,
        micro_batch=case.micro_batch,
        policy=case.policy,
        dtype=dtype,
        ignore_eos=True,
    )
    with tempfile.TemporaryDirectory(prefix="moelab-run-") as folder:
        path = Path(folder) / "run"
        run(question, options, Output(path, progress=False))
        found = compared(path, str(preset)).to_dict()
    return found["measured"], found["simulated"]


def _row(
    case: HeldOut,
    times: Sequence[Mapping[str, float]],
    simulated: Mapping[str, float],
    gpu_memory_bytes: int,
) -> dict[str, Any]:
    """A held-out run, all its measurements, and the errors of its simulation."""
    asked, measured = case.asked, middle(times)
    errors = {key: simulated[key] / measured[key] - 1 for key in measured}
    return {
        "schedule": case.schedule,
        "workload": asked.name,
        "policy": {"N": asked.prompts, "mu": case.micro_batch, **case.policy},
        "prompt_len": float(np.mean(asked.lengths)),
        "gen_len": asked.gen_len,
        "gpu_memory_bytes": gpu_memory_bytes,
        "measured_s": measured["makespan_s"],
        "simulated_s": simulated["makespan_s"],
        "repeats_s": makespans(times),
        "error": errors["makespan_s"],
        "prefill_error": errors["prefill_s"],
        "decode_error": errors["decode_s"],
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Errors over all runs; whether schedules rank as measured; how far two runs differ."""
    errors = [abs(row["error"]) for row in rows]
    first = [row["repeats_s"][:REPEATS] for row in rows]
    spans = [max(times) / min(times) - 1 for times in first]
    noise = float(np.median(spans))
    pairs = [
        (a["measured_s"] - b["measured_s"]) * (a["simulated_s"] - b["simulated_s"]) > 0
        for a, b in combinations(rows, 2)
        if a["workload"] == b["workload"] and _apart(a, b, max(spans))
    ]
    return {
        "runs": list(rows),
        "median_abs_error": float(np.median(errors)),
        "worst_abs_error": float(np.max(errors)),
        "pairs": len(pairs),
        "pairs_in_order": int(np.sum(pairs)),
        "same_ranking": all(pairs),
        "noise_floor": noise,
        "worst_noise": float(np.max(spans)),
    }


def _apart(a: Mapping[str, Any], b: Mapping[str, Any], noise: float) -> bool:
    """Whether two measurements differ by more than one of them does from itself."""
    low, high = sorted((a["measured_s"], b["measured_s"]))
    return bool(high / low - 1 > noise)
