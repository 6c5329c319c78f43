"""The base of all schedules, and where they are found by name."""

from abc import ABC, abstractmethod
from functools import cache
from importlib.metadata import entry_points
from typing import ClassVar, Literal

from schedules.errors import BadInput, suggest
from schedules.kernels import Kernels
from schedules.node import Node
from schedules.policy import Policy


class Schedule(ABC):
    """A program that issues tasks: prefill once, then one decode step after another.

    An instance is one generation on one node.

    Class attributes
    ----------------
    name: as on the command line. title: one line. paper: the source.
    kernels: which kernels the published implementation runs.
    knobs: the policy keys that mean something to it; any other must keep its default.
    one_batch: the whole batch is one micro-batch.
    multi_gpu: how it uses several GPUs; None when it cannot.
    in_turns: whether a pipeline splits each micro-batch over as many turns as it has stages, and so
        needs a sequence for each of them.
    steps_alike: all decode steps issue the same tasks, which differ in amounts of work alone; where
        this is False every step is simulated.
    for_real: whether the runtime has its operations; otherwise it is simulated only.
    decides: modifiers of the model that the method decides by itself (`experts`: their precision,
        `skip`: which choices count, `ssd`: where weights lie), so that no other can be asked for.
    change: how the method changes what the model computes, by a name of `runtime.changes`; None: it
        does not.
    host_pieces: in what pieces weights are taken from host memory: one `expert` at a time, or each
        time one of the spans (`contents`) that a buffer holds, or a part of it.
    pinned_default: whether host weights are page-locked when the policy does not say: always,
        never, or when they fit in what can be locked.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    kernels: ClassVar[Kernels] = Kernels()
    knobs: ClassVar[frozenset[str]] = frozenset()
    one_batch: ClassVar[bool] = False
    multi_gpu: ClassVar[Literal["tensor", "pipeline", "data"] | None] = None
    in_turns: ClassVar[bool] = True
    steps_alike: ClassVar[bool] = True
    for_real: ClassVar[bool] = True
    decides: ClassVar[frozenset[str]] = frozenset()
    change: ClassVar[str | None] = None
    host_pieces: ClassVar[Literal["expert", "span"]] = "span"
    pinned_default: ClassVar[Literal["never", "if_it_fits"]] = "never"

    def __init__(self, node: Node) -> None:
        """Take all memory of the generation. Raises `Infeasible` when it does not fit."""
        self.node = node

    @abstractmethod
    def prefill(self) -> None:
        """Issue the pass over the prompts."""

    @abstractmethod
    def decode_step(self) -> None:
        """Issue one decode step: one new token for every sequence."""

    def facts(self) -> dict[str, float]:
        """What a schedule knows of the run so far beside its timeline, such as `hit_rate`."""
        return {}

    def run_prefill(self) -> None:
        """Prefill, up to the barrier at its end."""
        self.node.begin(0)
        self.prefill()
        self.node.end()

    def run_decode_step(self, step: int) -> None:
        """Decode step `step` (1..), up to the barrier at its end."""
        self.node.begin(step)
        self.decode_step()
        self.node.end()

    @property
    def first_token_phases(self) -> int:
        """Phases up to the first token, which a run measures as one: prefill, and the first decode
        step of a model whose prefill is its encoder's."""
        return 2 if self.node.model.is_encoder_decoder else 1

    @classmethod
    def n_decode_steps(cls, is_encoder_decoder: bool, gen_len: int) -> int:
        """Decode steps of a generation: a decoder's prefill yields the first token already."""
        return gen_len if is_encoder_decoder else gen_len - 1

    @classmethod
    def check(cls, policy: Policy, n_gpus: int = 1) -> None:
        """Raise `BadInput` for a policy that the schedule cannot follow."""
        for key, field in Policy.model_fields.items():
            value = getattr(policy, key)
            if key not in cls.knobs | {"N", "mu"} and value != field.default:
                raise BadInput(
                    f"schedule '{cls.name}' has no use for {key} = {value}; it takes "
                    + ", ".join(["N", "mu", *sorted(cls.knobs)])
                )
        if cls.one_batch and policy.mu != policy.N:
            raise BadInput(
                f"schedule '{cls.name}' runs the batch as one: mu = {policy.mu} must equal "
                f"N = {policy.N}"
            )
        if n_gpus > 1 and cls.multi_gpu is None:
            raise BadInput(f"schedule '{cls.name}' uses one GPU, but {n_gpus} were asked for")


@cache
def schedules() -> dict[str, type[Schedule]]:
    """All schedules by name: the built-in ones and those of the entry point `moelab.schedules`."""
    from schedules import batch, expert  # they import this module

    found: dict[str, type[Schedule]] = {
        kind.name: kind for kind in (*batch.BUILT_IN, *expert.BUILT_IN)
    }
    for entry in entry_points(group="moelab.schedules"):
        try:
            kind = entry.load()
        except (ImportError, AttributeError) as error:
            raise BadInput(
                f"entry point '{entry.name}' ({entry.value}) cannot be loaded: {error}"
            ) from None
        if not (isinstance(kind, type) and issubclass(kind, Schedule)):
            raise BadInput(f"entry point '{entry.name}' ({entry.value}) is not a Schedule class")
        if kind.name in found:
            raise BadInput(f"entry point '{entry.name}': there is a schedule '{kind.name}' already")
        found[kind.name] = kind
    return found


def runnable() -> dict[str, type[Schedule]]:
    """The schedules that the runtime executes too, by name."""
    return {name: kind for name, kind in schedules().items() if kind.for_real}


def find_schedule(name: str) -> type[Schedule]:
    """The schedule of that name. Raises `BadInput` with the nearest names."""
    known = schedules()
    if name not in known:
        raise BadInput(f"unknown schedule '{name}'{suggest(name, known)}")
    return known[name]
