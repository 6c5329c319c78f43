"""The options that ask a question of the simulator, once for all commands that take them."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from moelab import options

if TYPE_CHECKING:
    from sim.question import Question as Asked
else:
    Asked = Any
    """A question; the simulator is imported when a command runs, so that `--help` is quick."""


def question(
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
    routing: options.Routing = "uniform",
    modify: options.ModifierItems = None,
) -> Asked:
    """What these options ask. Raises `BadInput` for values that cannot be read."""
    from schedules.modifiers import parse_modifiers
    from schedules.policy import parse_assignments
    from sim.question import Question

    return Question(
        model,
        hardware,
        workload,
        gen_len,
        batch,
        micro_batch,
        parse_assignments(policy or []),
        padded,
        gpus,
        seed,
        routing,
        parse_modifiers(modify or []),
    )


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of `question` in place of its parameter `asked`.

    The command line is made from a function's signature, so this makes one of two: of the command,
    and of `question`, which is called with its share of the values.
    """
    wanted = signature(question).parameters
    own = signature(command).parameters
    if "asked" not in own:
        raise TypeError(f"{command.__name__} has no parameter 'asked' for the question")

    @wraps(command)
    def with_options(**given: Any) -> None:
        values = {name: given.pop(name) for name in wanted}
        command(asked=question(**values), **given)

    parameters: list[Parameter] = []
    for name, parameter in own.items():
        parameters += wanted.values() if name == "asked" else [parameter]
    # Where those without a default come after others, order does not count: all are named.
    named = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    changed: Any = with_options
    changed.__signature__ = signature(command).replace(parameters=named)
    changed.__annotations__ = {p.name: p.annotation for p in named} | {"return": None}
    return with_options
