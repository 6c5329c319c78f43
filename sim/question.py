"""What is asked of the simulator: a scenario by name, path or object, and what is fixed of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from schedules.errors import BadInput
from schedules.model import ModelSpec
from schedules.model_presets import load_model
from schedules.modifiers import Modifiers, make_modifiers
from schedules.routing import Routing
from schedules.routing_presets import load_routing
from schedules.routing_trace import check_routing
from schedules.validated import validated
from schedules.workload import Workload
from schedules.workload_presets import load_workload
from sim.engines import engine as find_engine
from sim.given import given_policy
from sim.hardware import load_hardware
from sim.hardware_model import Hardware
from sim.scenario import Scenario

P = ParamSpec("P")
First = TypeVar("First")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Question:
    """A model on a machine with a workload, and what is fixed of the policy.

    Parameters
    ----------
    model, hardware, workload: names of presets, paths of own files, or objects.
    gen_len: tokens to generate per sequence; None: the workload's own.
    batch, micro_batch: N and mu, sequences; left out, the best feasible ones are searched.
    policy: other policy values by name, as `{"r_w": 0.1}`.
    padded: count every prompt as the longest one; None: the workload's own.
    gpus: GPUs to use; None: all that the schedule can use.
    seed: of the routing.
    routing: which experts the tokens take: a preset's name, `zipf:1.2`, the path of a TOML file or
        of a recorded `routing.parquet`, or a `Routing`, which has a seed of its own.
    modifiers: what is changed of the model, or of where it lies, as `{"experts": "int4"}`; see
        `schedules.modifiers.Modifiers`.
    engine: `compiled`, or `simpy` for the reference.
    """

    model: str | Path | ModelSpec
    hardware: str | Path | Hardware
    workload: str | Path | Workload
    gen_len: int | None = None
    batch: int | None = None
    micro_batch: int | None = None
    policy: Mapping[str, Any] | None = None
    padded: bool | None = None
    gpus: int | None = None
    seed: int = 0
    routing: str | Path | Routing = "uniform"
    modifiers: Mapping[str, Any] | Modifiers | None = None
    engine: str = "compiled"

    def scenario(self) -> Scenario:
        """Everything but the policy. Raises `BadInput` for what is unknown or impossible."""
        changed = make_modifiers(self.modifiers)
        model, hardware = self.model, self.hardware
        if not isinstance(model, ModelSpec):
            model = load_model(model)
        if not isinstance(hardware, Hardware):
            hardware = load_hardware(hardware)
        model = changed.applied(model)
        routing = _routing(self.routing, self.seed, model)
        find_engine(self.engine)
        return Scenario(
            model,
            hardware,
            self._workload(),
            self.gpus,
            routing,
            modifiers=changed,
            engine=self.engine,
        )

    def _workload(self) -> Workload:
        if not isinstance(self.workload, Workload):
            return load_workload(self.workload, gen_len=self.gen_len, padded=self.padded)
        changes = {"gen_len": self.gen_len, "padded": self.padded}
        given = {key: value for key, value in changes.items() if value is not None}
        name = f"workload {self.workload.name}"
        return validated(Workload, dict(self.workload) | given, name)

    def given(self) -> dict[str, Any]:
        """What is fixed of the policy, under standard names. Raises `BadInput`."""
        return given_policy(self.batch, self.micro_batch, self.policy)


def asking(
    ask: Callable[P, Question],
) -> Callable[[Callable[[First, Question], Answer]], Callable[Concatenate[First, P], Answer]]:
    """Let a function that takes a question take the values of one instead: `@asking(Question)`."""

    def change(
        answer: Callable[[First, Question], Answer],
    ) -> Callable[Concatenate[First, P], Answer]:
        make: Callable[..., Question] = ask
        own = signature(answer)
        first = next(iter(own.parameters.values()))
        whole = own.replace(parameters=[first, *signature(ask).parameters.values()])

        @wraps(answer)
        def answered(*values: Any, **named: Any) -> Answer:
            given = whole.bind(*values, **named).arguments
            return answer(given.pop(first.name), make(**given))

        changed: Any = answered
        changed.__signature__ = whole
        return cast("Callable[Concatenate[First, P], Answer]", changed)

    return change


def _routing(routing: str | Path | Routing, seed: int, model: ModelSpec) -> Routing:
    if not isinstance(routing, Routing):
        routing = load_routing(routing, seed)
    elif seed:
        raise BadInput(f"seed {seed} is given with a routing that has its own, {routing.seed}")
    check_routing(routing, model)
    return routing
