"""PyTorch's profiler around a run: its trace lies beside our timeline."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from runtime.files import replaced


@contextmanager
def profiled(path: Path, cuda: bool) -> Iterator[None]:
    """Profile all threads, and write a Chrome trace (open it in Perfetto) at the end."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would tell when it starts and stops
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    settings = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(activities=activities, experimental_config=settings) as profiler:
        yield
    with replaced(path) as partial:
        profiler.export_chrome_trace(str(partial))
