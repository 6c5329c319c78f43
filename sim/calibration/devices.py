"""What a device needs for flops, bytes and calls, from operations that ran on it alone."""

from collections.abc import Iterable, Sequence

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray
from schedules.sample import Sample
from sim.calibration.least_squares import Fit, fit


def device_fit(samples: Iterable[Sample], device: str) -> Fit:
    """Costs of a device: `DTYPE.CLASS` (s a flop), `bytes` (s a byte), `calls` (s a call).

    As a roofline, or with the seconds of computation and memory added up, whichever is closer to
    the measurements. Raises `BadInput` where there are too few of them.
    """
    own = [s for s in samples if s.work.device == device]
    if not own:
        raise BadInput(f"no operation was measured on the {device}")
    amounts, seconds = columns(own, device), medians(own)
    flops = [name for name in amounts if name not in ("bytes", "calls")]
    found = [fit(amounts, seconds), fit(amounts, seconds, (flops, ["bytes"]))]
    return min(found, key=lambda one: one.loss)


def columns(samples: Sequence[Sample], memory: str) -> dict[str, FloatArray]:
    """Amounts of work by what they cost."""
    kinds = sorted({f"{s.work.dtype}.{kernel}" for s in samples for kernel in s.work.flops})
    found = {kind: np.zeros(len(samples)) for kind in kinds}
    for i, s in enumerate(samples):
        for kernel, flops in s.work.flops.items():
            found[f"{s.work.dtype}.{kernel}"][i] = flops / s.work.share
    moved = [s.work.bytes.get(memory, 0.0) / s.work.share for s in samples]
    calls = [float(s.work.calls) for s in samples]
    return found | {"bytes": np.array(moved), "calls": np.array(calls)}


def medians(samples: Iterable[Sample]) -> FloatArray:
    """The median seconds of each."""
    return np.array([np.median(s.seconds) for s in samples])
