"""Every schedule and accelerate on layers of Mixtral 8x7B, at several budgets of GPU memory.

The policies follow `systems.fitting_policy`: all prompts in eight micro-batches (or more, until
they fit) with as large a share of the weights on the GPU as fits; schedules of one batch take the
largest batch that fits. First come the systems that copy from pageable memory; then the weights are
page-locked where they lie, once for all sessions, and the others follow.

accelerate fills a quarter of the budget with whole layers; a visiting module, activations and cache
need the rest. Its batch is halved until it fits.
"""

import gzip
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_rows import append_timeline, decode_bound
from hugging_face import mixtral, offloaded, run_transformers, state_dict
from systems import Prompts, Timed, fitting_policy, free_memory, run_schedule

import runtime.session
from runtime.device import DeviceOptions
from runtime.memory import Memory
from runtime.profile import profiled
from runtime.random_weights import RandomWeights
from runtime.sampling import Greedy
from runtime.weights import WeightSource
from schedules.errors import Infeasible
from schedules.model import ModelSpec
from schedules.policy import Policy
from schedules.schedule import find_schedule, runnable
from schedules.task import Buffer

TIMELINES, TRACE = "timelines.parquet", "trace.json.gz"
TRACE_BYTES = 16 << 20
RESIDENT_SHARE = 0.25  # of the budget: whole layers that accelerate keeps on the GPU
COMPUTE_SHARE = 0.5  # of the budget: what accelerate's first batch may need for its experts
LEFT_OUT = {"accelerate", "decoder-resident"}
"""Run elsewhere, and the same as GPU-only for models without an encoder. Nor do schedules run that
change what the model computes."""
PAGEABLE = ("accelerate", "cgopipe")  # schedules that run from pageable memory
LEAST_S = 12.0  # a system is not begun with less time left
LOCKED_BYTES = 1 << 20  # matrices below this stay pageable


@dataclass(frozen=True)
class Setup:
    """What is run.

    Parameters
    ----------
    spec: the model. budgets: bytes of GPU memory, the most important first.
    host_bytes: of which weights may take half.
    deadline: on `time.monotonic`'s clock.
    """

    device: str
    spec: ModelSpec
    prompts: int
    prompt_len: int
    gen_len: int
    micro_batches: int
    budgets: tuple[int, ...]
    host_bytes: int
    deadline: float

    @property
    def left_s(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    def options(self, budget: int) -> DeviceOptions:
        """What a run may use."""
        return DeviceOptions(self.device, budget, self.host_bytes)  # type: ignore[arg-type]


class Item(NamedTuple):
    """A system at a budget; `memory` is `pageable`, `page-locked` or empty."""

    system: str
    budget: int
    memory: str

    @property
    def key(self) -> str:
        """Its name in the journal."""
        return f"{self.system}, {self.memory or 'resident'}, {self.budget / 2**30:g} GiB"


class InPlace(Memory):
    """Host weights stay where they are: that memory is page-locked already."""

    def _size(self, buffer: Buffer, slack: tuple[int, int]) -> int:
        return 0 if buffer.kind == "host weights" else super()._size(buffer, slack)


@dataclass
class Runs:
    """All items, one after the other; `write` journals a row as soon as it is there.

    Parameters
    ----------
    begun: keys of items that an earlier process has begun: they are not tried again.
    """

    setup: Setup
    folder: Path
    write: Callable[[Mapping[str, Any]], None]
    begun: frozenset[str] = frozenset()
    tokens: dict[str, Any] = field(default_factory=dict)

    def all(self) -> None:
        """Make the weights, and run everything."""
        setup = self.setup
        start = time.monotonic()
        self.source: WeightSource = RandomWeights(setup.spec)
        self.state = state_dict(self.source)
        self.prompts = random_prompts(setup)
        self.write({"weights_s": time.monotonic() - start})
        for item in self.items():
            if item.system == "lock":
                self.lock()
            elif item.key not in self.begun:
                self.one(item)

    def items(self) -> Iterator[Item]:
        """The most important budget first, from pageable memory before it is page-locked."""
        first = self.setup.budgets[0]
        hugging_face = (
            "accelerate (Hugging Face)" if self.setup.device == "cuda" else "transformers"
        )
        yield Item(hugging_face, first, "pageable")
        for budget in self.setup.budgets:
            for name in PAGEABLE:
                yield Item(name, budget, "pageable")
        yield Item("lock", 0, "")
        same = [name for name, kind in runnable().items() if kind.change is None]
        names = [name for name in same if name not in LEFT_OUT]
        names.sort(key=lambda name: name != "cgopipe")
        for budget in self.setup.budgets:
            if budget != first:
                yield Item(hugging_face, budget, "pageable")
            yield from (Item(name, budget, self._memory(name)) for name in names)
            if budget == first:
                yield Item("trace", budget, "page-locked")

    @staticmethod
    def _memory(name: str) -> str:
        kind = find_schedule(name)
        if "pinned" in kind.knobs:
            return "page-locked"
        return "" if name == "gpu-only" else "pageable"

    def one(self, item: Item) -> None:
        """One system; an error is a row as well."""
        base = {"system": item.system, "memory": item.memory, "budget_bytes": item.budget}
        if self.setup.left_s < LEAST_S:
            self.write(base | {"skipped": "no time left"})
            return
        self.write({"begun": item.key})
        start = time.monotonic()
        try:
            found = self._run(item)
        except Infeasible as error:
            found = {"infeasible": str(error)}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
            if "CUDA error" in str(error):  # nothing runs in this process any more
                self.write(base | found)
                sys.exit(1)
        free_memory()
        self.write(base | found | {"wall_s": time.monotonic() - start})

    def _run(self, item: Item) -> dict[str, Any]:
        if item.system == "trace":
            return self.trace(item)
        if item.system in runnable():
            return self.schedule(item)
        return self.hugging_face(item)

    # -- the schedules --------------------------------------------------------------------------

    def policy(self, item: Item, name: str) -> Policy:
        """By the rule of all systems."""
        setup, pinned = self.setup, item.memory == "page-locked"
        arguments = (find_schedule(name), setup.spec, self.prompts, setup.gen_len)
        options = setup.options(item.budget)
        return fitting_policy(*arguments, options, setup.micro_batches, {"pinned": pinned})

    def schedule(self, item: Item) -> dict[str, Any]:
        """One batch of a schedule."""
        policy = self.policy(item, item.system)
        prompts = self.prompts[: policy.N]
        kind, options = find_schedule(item.system), self.setup.options(item.budget)
        done = run_schedule(kind, self.source, policy, prompts, self.setup.gen_len, options)
        columns = {"schedule": item.system, "memory": item.memory, "budget_bytes": item.budget}
        append_timeline(self.folder / TIMELINES, done.timelines[0], columns)
        policy_values = policy.model_dump() | {"n_micro_batches": policy.n_micro_batches}
        return self._row(done) | {"policy": policy_values} | decode_bound(done)

    def _row(self, done: Timed) -> dict[str, Any]:
        expected = self.tokens.setdefault("first", done.tokens)
        n = min(len(expected), len(done.tokens))
        pairs = list(zip(expected[:n], done.tokens[:n], strict=True))
        equal = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=True))
        return {
            "sequences": len(done.tokens),
            "tokens_per_s": done.tokens_per_s,
            "decode_tokens_per_s": done.decode_tokens_per_s,
            "prefill_s": done.prefill_s,
            "step_s": list(done.step_s),
            "bound_s": done.bound_s,
            "bound_share": None if done.bound_s is None else done.bound_s / done.makespan_s,
            "simulated_s": done.simulated_s,
            "peak_bytes": done.peak_bytes,
            "predicted_bytes": done.predicted_bytes,
            "issue_s_per_task": done.issue_s,
            "busy_s": dict(done.busy_s),
            "same_tokens": equal / (n * self.setup.gen_len),
        }

    def lock(self) -> None:
        """Page-lock the weights where they lie; sessions make no copy of them from now on."""
        start, locked, failed = time.monotonic(), 0, 0
        runtime.session.Memory = InPlace  # type: ignore[misc]
        if self.setup.device == "cuda":
            calls = torch.cuda.cudart()
            for pointer, size in sorted(storages(self.source)):
                error = int(calls.cudaHostRegister(pointer, size, 0))
                locked, failed = locked + size * (not error), failed + size * bool(error)
        seconds = time.monotonic() - start
        self.write({"locked_bytes": locked, "not_locked_bytes": failed, "lock_s": seconds})

    def trace(self, item: Item) -> dict[str, Any]:
        """The profiler's trace of one decode step of CGOPipe."""
        policy, options = self.policy(item, "cgopipe"), self.setup.options(item.budget)
        arguments = (find_schedule("cgopipe"), self.source, policy, self.prompts)
        path = self.folder / "trace.json"
        with runtime.session.Session(*arguments, 4, options, Greedy()) as session:
            session.prefill()
            session.decode_step()
            with profiled(path, options.device == "cuda"):
                session.decode_step()
            seconds = session.step_s
        with path.open("rb") as plain, gzip.open(self.folder / TRACE, "wb") as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()
        size = (self.folder / TRACE).stat().st_size
        if size >= TRACE_BYTES:
            (self.folder / TRACE).unlink()
        return {"step_s": seconds, "trace_bytes": size, "kept": size < TRACE_BYTES}

    # -- Hugging Face ---------------------------------------------------------------------------

    def hugging_face(self, item: Item) -> dict[str, Any]:
        """accelerate's offload with CUDA; transformers on the CPU."""
        setup, model = self.setup, mixtral(self.source, self.state)
        batch = len(self.prompts)
        if setup.device == "cuda":
            total = torch.cuda.mem_get_info()[1]
            torch.cuda.set_per_process_memory_fraction(min(1.0, item.budget / total))
            model = offloaded(model, int(item.budget * RESIDENT_SHARE))
            batch = min(batch, int(item.budget * COMPUTE_SHARE / prompt_bytes(setup)) or 1)
            torch.cuda.reset_peak_memory_stats()
        done = None
        while done is None:
            free_memory()
            try:
                prompts = self.prompts[:batch]
                done = run_transformers(model, prompts, setup.gen_len, batch, setup.device)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch = -(-batch // 2)
        peak = torch.cuda.max_memory_allocated() if setup.device == "cuda" else None
        return self._row(done) | {"peak_bytes": peak, "policy": {"N": batch, "mu": batch}}


def prompt_bytes(setup: Setup) -> int:
    """What the experts of transformers hold for a prompt: gate, up, their product, in and out."""
    spec = setup.spec
    return (
        setup.prompt_len
        * spec.top_k
        * (3 * spec.expert_ffn_size + 3 * spec.hidden_size)
        * spec.bytes_per_parameter
    )


def random_prompts(setup: Setup) -> Prompts:
    """Prompts of one length."""
    generator = torch.Generator().manual_seed(1)
    shape = (setup.prompts, setup.prompt_len)
    ids = torch.randint(setup.spec.vocab_size, shape, generator=generator)
    return tuple(map(tuple, ids.tolist()))


def storages(source: WeightSource) -> set[tuple[int, int]]:
    """Address and size of each large piece of memory that holds matrices."""
    spec = source.architecture.spec
    names = ("q", "k", "v", "o", "gate", "up", "down")
    every = (
        source.matrix(layer, name).untyped_storage()
        for layer in range(spec.n_layers)
        for name in names
    )
    return {(s.data_ptr(), s.nbytes()) for s in every if s.nbytes() >= LOCKED_BYTES}
