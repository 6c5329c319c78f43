"""Cache policies by name, for the command line and for schedules with a choice."""

from collections.abc import Iterable

from schedules.errors import BadInput, suggest
from schedules.expert.cache_hobbit import Hobbit
from schedules.expert.cache_infinity import MoEInfinity
from schedules.expert.cache_policies import FIFO, LFU, LIFO, LRU, Belady, Key, Policy
from schedules.expert.cache_scored import EdgeMoE

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (LRU, LFU, LIFO, FIFO, Belady, Hobbit, EdgeMoE, MoEInfinity)
}


def cache_policy(
    name: str, *, n_layers: int, n_experts: int, future: Iterable[Iterable[Key]] | None = None
) -> Policy:
    """A new policy with its default settings.

    Raises `BadInput` if the name is unknown, or if "belady" is not given the requests to come.

    >>> cache_policy("lru", n_layers=32, n_experts=8).name
    'lru'

    Parameters
    ----------
    n_layers, n_experts: layers with experts, and experts of each.
    future: the requests to come, each with its keys; only "belady" looks at it.
    """
    policy = POLICIES.get(name)
    if policy is None:
        raise BadInput(f"unknown cache policy '{name}'{suggest(name, POLICIES)}")
    if policy is Belady:
        if future is None:
            raise BadInput("cache policy 'belady' needs the requests to come, and has none")
        return Belady(future)
    if policy is MoEInfinity:
        return MoEInfinity(n_layers, n_experts)
    if policy is Hobbit or policy is EdgeMoE:
        return policy(n_layers)
    return policy()
