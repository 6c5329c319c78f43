"""One generation of one batch: a schedule, executed."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from runtime.attention import compile_kernel
from runtime.context import Context, Sampler
from runtime.described import described
from runtime.device import DeviceOptions, open_device
from runtime.device_weights import DeviceWeights
from runtime.encoder_decoder import check_encoder
from runtime.executor import Executor
from runtime.kv import KVLayout
from runtime.memory import Memory
from runtime.operations import Operations
from runtime.packed_experts import keep_packed
from runtime.placing import KERNELS, budget_bytes, check_schedule, placed, placement
from runtime.position_biases import position_biases
from runtime.predictor import PredictorNetwork, check_predictor
from runtime.routing_log import RoutingLog
from runtime.sharded import Sharded
from runtime.state import make_state
from runtime.unpacker import Unpacker, make_unpacker, most_cols
from runtime.weights import WeightSource
from runtime.workspace import Workspace
from schedules.batching import MicroBatch
from schedules.errors import BadInput, MoelabError
from schedules.graph import TaskGraph
from schedules.issuer import Issuer
from schedules.layer_sizes import LayerSizes
from schedules.model import ModelSpec
from schedules.placing import Capacities
from schedules.policy import Policy
from schedules.schedule import Schedule

__all__ = ["KERNELS", "Session"]


class Session:
    """A schedule on this machine, with its weights and prompts.

    Parameters
    ----------
    kind: the schedule.
    source: the weights in host memory, of the whole model.
    policy: the batch N is the number of `prompts`.
    prompts: token ids.
    gen_len: tokens to generate for each prompt.
    sampler: chooses the next tokens.
    rank, world: of tensor-parallel processes.
    record: whether to note when each task ran.
    predictor: that names the experts, for a schedule in which it does.

    Raises `BadInput` for what the schedule cannot do, `Infeasible` when a pool is too small.
    """

    def __init__(
        self,
        kind: type[Schedule],
        source: WeightSource,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        gen_len: int,
        options: DeviceOptions,
        sampler: Sampler,
        rank: int = 0,
        world: int = 1,
        record: bool = True,
        predictor: PredictorNetwork | None = None,
    ) -> None:
        self.gen_len = gen_len
        self.n_prompts = len(prompts)
        check_schedule(kind, policy, world)
        check_encoder(kind, source.architecture)
        check_predictor(kind, predictor)
        if world > 1:
            if source.architecture.spec.quantisation is not None:
                raise BadInput("packed weights run on one GPU; leave their modifiers out")
            source = Sharded(source, rank, world)
        spec = source.architecture.spec
        source.architecture.check_context(max(map(len, prompts)) + gen_len)
        self.device = open_device(options)

        def open_issuer(
            streams: tuple[str, ...],
            capacities: Capacities,
            hosts: int,
            batches: tuple[MicroBatch, ...],
        ) -> Issuer:
            return Executor(streams, capacities, hosts, self.device, options.threads, rank, record)

        lengths = [len(prompt) for prompt in prompts]
        given = placement(spec, policy, lengths, gen_len, options, world, open_issuer)
        self.schedule = placed(kind, given)
        issuer = self.schedule.node.issuer
        assert isinstance(issuer, Executor)
        self.issuer = issuer
        context = self._context(source, prompts, options, sampler, rank, world)
        context.predictor = predictor
        self.context: Context | None = context
        self.log = context.log
        self.rank = rank
        self.graphs: list[TaskGraph] = []
        self.step_s: list[float] = []
        self.first_tasks: list[int] = []  # the number of each graph's first task
        self._began_ns = 0
        if not self.device.is_cuda or any(b.kind == "attended" for b in issuer.buffers):
            compile_kernel(context)
        try:
            issuer.start(Operations(context))
        except BaseException:
            self.close()
            raise

    def _context(
        self,
        source: WeightSource,
        prompts: Sequence[Sequence[int]],
        options: DeviceOptions,
        sampler: Sampler,
        rank: int,
        world: int,
    ) -> Context:
        node, arch, device = self.schedule.node, source.architecture, self.device
        layout = KVLayout(
            node.batches, self.gen_len, arch.n_kv_heads, arch.head_dim, arch.dtype.itemsize
        )
        cuts_cache = 0 < node.policy.r_c < 1
        memory = Memory(device, arch.spec, world, layout, budget_bytes(options), cuts_cache)
        memory.commit(self.issuer.buffers)
        weights = DeviceWeights(source, memory)
        weights.keep(self.issuer.buffers)
        keep_packed(self.issuer.buffers, weights)
        ids = [list(prompt) for prompt in prompts]
        states = [make_state(b, ids, memory, device.torch_device) for b in node.batches]
        ws, hidden = self._workspace(memory, arch.hidden_size, arch.dtype)
        weights.unpacker = self._unpacker(ws, arch.spec, arch.dtype)
        return Context(
            arch=arch,
            device=device,
            memory=memory,
            weights=weights,
            layout=layout,
            states=states,
            log=RoutingLog(arch.spec, states, device.is_cuda),
            sampler=sampler,
            ws=ws,
            prompt_hidden=hidden,
            threads=options.threads,
            rank=rank,
            world=world,
            biases=position_biases(arch, weights.vectors, max(map(len, ids)), self.gen_len),
        )

    def _workspace(
        self, memory: Memory, hidden_size: int, dtype: torch.dtype
    ) -> tuple[Workspace, torch.Tensor | None]:
        """Scratch memory; its first part is prefill's hidden states if no buffer holds them."""
        buffers = self.issuer.buffers
        (buffer,) = [b for b in buffers if b.kind == "workspace" and memory.has(b)]
        ws = Workspace(memory.storage[id(buffer)])
        if any(b.kind == "prompt hidden" and memory.has(b) for b in buffers):
            return ws, None
        tokens = self.schedule.node.widest.prompt_tokens
        return ws, ws.take((tokens, hidden_size), dtype)

    @staticmethod
    def _unpacker(ws: Workspace, spec: ModelSpec, dtype: torch.dtype) -> Unpacker | None:
        """Room to write packed weights out, which the schedules count as part of the workspace."""
        if spec.quantisation is None:
            return None
        sizes = LayerSizes(spec, KERNELS)
        scratch = max(map(sizes.scratch_bytes, (*spec.decoder_layers, *spec.encoder_layers)))
        elements = max(most_cols(spec), int(scratch) // dtype.itemsize)
        return make_unpacker(spec, ws.take((elements,), dtype))

    # -- the generation -------------------------------------------------------------------------

    def prefill(self) -> NDArray[np.int64]:
        """The first token of every prompt, in their order.

        Where the model has an encoder, that takes prefill and the first decode step.
        """
        self._began_ns = time.perf_counter_ns()
        first = self._phase(0)
        return self._phase(1) if self.schedule.node.model.is_encoder_decoder else first

    def decode_step(self) -> NDArray[np.int64]:
        """The next token of every prompt."""
        return self._phase(len(self.graphs))

    def _phase(self, step: int) -> NDArray[np.int64]:
        begin = time.perf_counter()
        if self.context is None:
            raise MoelabError("the session is closed")
        self.log.open(step)
        first = self.issuer.count
        self._issue(step)
        tokens = np.empty(self.n_prompts, dtype=np.int64)
        for state in self.context.states:
            tokens[list(state.batch.requests)] = state.ids.cpu().numpy()
        self.step_s.append(time.perf_counter() - begin)
        self.log.close_step()
        self.graphs.append(self.issuer.take())
        self.first_tasks.append(first)
        return tokens

    def _issue(self, step: int) -> None:
        """Run the schedule's program for a step. Raises `MoelabError` where that fails."""
        try:
            if step == 0:
                self.schedule.run_prefill()
            else:
                self.schedule.run_decode_step(step)
            assert self.issuer.binder is not None
            self.issuer.binder.check_step(step)
        except MoelabError:
            raise
        except Exception as error:
            where = f"decode step {step}" if step else "prefill"
            raise MoelabError(
                f"schedule '{self.schedule.name}' failed in {where}: {described(error)}"
            ) from error

    def close(self) -> None:
        """End all workers and give the memory back; what was measured stays."""
        self.issuer.close()
        self.context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- what was measured ----------------------------------------------------------------------

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams, in the order of lanes."""
        return self.issuer.streams

    @property
    def peak_bytes(self) -> dict[str, int]:
        """Memory really used: of the GPU as its allocator counts, of the host as planned."""
        pools = dict(self.issuer.peak_bytes)
        own = self.schedule.node.gpus[self.rank].pool
        return pools | {own: self.device.used_bytes()}

    @property
    def predicted_bytes(self) -> dict[str, int]:
        """The schedule's own account of the same pools."""
        return self.issuer.peak_bytes

    @property
    def capacity_bytes(self) -> dict[str, int]:
        """Bytes of each pool."""
        return {name: pool.capacity_bytes for name, pool in self.issuer.pools.items()}

    @property
    def issuing_s(self) -> dict[str, float]:
        """Seconds that the issuing thread spent issuing, by its stream."""
        name = self.schedule.node.gpus[self.rank].host
        return {name: sum(self.issuer.issued_ns) * 1e-9}

    def tasks(self) -> list[tuple[Any, ...]]:
        """One row per task that this process ran, with the columns of a timeline.

        Times count from the start of prefill, on the host's clock.
        """
        self.issuer.collect_times()
        rows: list[tuple[Any, ...]] = []
        for first, graph in zip(self.first_tasks, self.graphs, strict=True):
            for i in range(len(graph)):
                start = self.issuer.start_ns.get(first + i)
                if start is not None:
                    rows.append(self._row(first + i, i, graph, start))
        return sorted(rows, key=lambda row: row[6])

    def _row(self, number: int, i: int, graph: TaskGraph, start_ns: int) -> tuple[Any, ...]:
        work = graph.works[graph.work[i]]
        return (
            number,
            graph.ops[graph.op[i]],
            graph.streams[graph.stream[i]],
            int(graph.layer[i]),
            int(graph.micro_batch[i]),
            int(graph.step[i]),
            (start_ns - self._began_ns) * 1e-9,
            (self.issuer.end_ns[number] - self._began_ns) * 1e-9,
            work.total_flops,
            work.total_bytes,
            work.total_link_bytes,
        )

    @property
    def moe_layers(self) -> list[int]:
        """The decoder layers with experts."""
        layers = self.schedule.node.model.decoder_layers
        return [layer.index for layer in layers if layer.is_moe]

    def facts(self) -> dict[str, float]:
        """What the schedule knows of the run so far."""
        found = self.schedule.facts()
        if self.schedule.change == "predicted":
            found.pop("wrong_share", None)  # it was stated: no router says who is right
        return found

    def routing(self) -> pd.DataFrame:
        """Which experts each token took; see `RoutingLog.frame`."""
        return self.log.frame()
