"""What has a name: models, machines, workloads, schedules."""

from typing import Any


def entries(what: str) -> list[dict[str, Any]]:
    """One entry per preset, as plain values."""
    return {
        "models": models,
        "hardware": hardware,
        "workloads": workloads,
        "schedules": all_schedules,
    }[what]()


def models() -> list[dict[str, Any]]:
    """Model presets, with their parameter counts."""
    from schedules.model_presets import load_model, model_names

    specs = [load_model(name) for name in model_names()]
    return [
        {
            "name": s.name,
            "family": s.family,
            "parameters": s.parameters,
            "active_parameters": s.active_parameters,
            "layers": s.n_layers,
            "experts": s.n_experts,
            "top_k": s.top_k,
            "dtype": s.dtype,
            "source": s.source,
        }
        for s in specs
    ]


def hardware() -> list[dict[str, Any]]:
    """Machines, with the rates that matter most."""
    from sim.hardware import hardware_names, load_hardware

    machines = [load_hardware(name) for name in hardware_names()]
    return [
        {
            "name": h.name,
            "gpus": f"{h.gpu.count} x {h.gpu.name}",
            "gpu_memory_bytes": int(h.gpu.memory.value),
            "cpu_memory_bytes": int(h.cpu.memory.value),
            "h2d_bytes_per_s": h.links["h2d"].sustained,
            "pin_bytes_per_s": h.links["pin"].sustained,
            "gpu_memory_bytes_per_s": h.gpu.memory_bandwidth.sustained,
            "cpu_memory_bytes_per_s": h.cpu.memory_bandwidth.sustained,
            "description": h.description,
        }
        for h in machines
    ]


def workloads() -> list[dict[str, Any]]:
    """Workloads, with their lengths in tokens."""
    from schedules.workload_presets import load_workload, workload_names

    return [
        {
            "name": w.name,
            "average": w.average,
            "longest": w.longest,
            "gen_len": w.gen_len,
            "padded": w.padded,
            "source": w.source,
        }
        for w in map(load_workload, workload_names())
    ]


def all_schedules() -> list[dict[str, Any]]:
    """Schedules, with the policy keys that mean something to them."""
    from schedules.schedule import schedules

    return [
        {
            "name": kind.name,
            "title": kind.title,
            "policy": ["N", "mu", *sorted(kind.knobs)],
            "several_gpus": kind.multi_gpu,
            "paper": kind.paper,
        }
        for kind in schedules().values()
    ]
