"""Schedules with an SSD tier, for the tests of `disk_tier`."""

from schedules.lengths import Listed
from schedules.model_presets import load_model
from schedules.modifiers import make_modifiers
from schedules.policy import make_policy
from schedules.routing import Routing
from schedules.schedule import schedules
from schedules.workload import Workload
from sim.hardware import load_hardware
from sim.scenario import Scenario, place

MACHINES = {1: "gcp-t4-24c", 2: "gcp-t4x2-32c"}  # by number of GPUs
MODES = ("serial", "overlapped")
REFUSE = {"edgemoe", "ultramem"}  # schedules that say by themselves where weights lie
ACCEPT = sorted(set(schedules()) - REFUSE)


def scenario(ssd, gpus=1, model="mixtral-8x7b", layers=2, prompts=(3,), routing=None, **modifiers):
    """The first layers of a model, on a machine whose GPUs have room enough."""
    modified = make_modifiers({"ssd": ssd} | modifiers)
    machine = load_hardware(MACHINES[gpus]).with_rate("gpu.memory", 100)
    workload = Workload(
        name="test",
        prompt_lengths=Listed(lengths=tuple(prompts)),
        gen_len=3,
        padded=False,
        source="this test",
    )
    spec = modified.applied(load_model(model).with_layers(layers))
    return Scenario(spec, machine, workload, gpus, routing or Routing(seed=1), modifiers=modified)


def build(kind, ssd, n=2, mu=1, where=None, **policy):
    """A schedule with its memory; `where` is for `scenario`."""
    return place(scenario(ssd, **where or {}), kind, make_policy({"N": n, "mu": mu} | policy))
