"""Micro-benchmarks of the links and of host memory: copies, page-locking, CPU attention."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from gpu_timing import (
    Action,
    Machine,
    Row,
    bytes_tensor,
    device_seconds,
    host_seconds,
    row,
    torch_threads,
)
from torch import Tensor

from runtime.cpu_attention import decode_attention

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128  # of Mixtral 8x7B

# -- links ------------------------------------------------------------------------------------


def copies(machine: Machine) -> Iterator[Row]:
    """h2d and d2h, from and to pinned and pageable memory, by size."""
    if not machine.cuda:
        return
    for size in (4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20, 1 << 30):
        there = torch.empty(size, dtype=torch.uint8, device="cuda")
        for where in ("pinned", "pageable"):
            here = bytes_tensor(size, where)
            count = 5 if size >= 256 << 20 else machine.repeats
            for link, (target, source) in {"h2d": (there, here), "d2h": (here, there)}.items():
                seconds = host_seconds(machine, lambda t=target, s=source: _copied(t, s), count)
                yield row(link, seconds, memory=where, moved_bytes=size)


def _copied(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)
    torch.cuda.current_stream().synchronize()


def both_directions(machine: Machine) -> Iterator[Row]:
    """h2d and d2h of pinned memory at once: bytes of both over the time until both have ended."""
    if not machine.cuda:
        return
    size = 1 << 30
    here = [bytes_tensor(size, "pinned") for _ in range(2)]
    there = [torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2)]
    streams = [torch.cuda.Stream() for _ in range(2)]

    def run() -> None:
        for stream, target, source in zip(
            streams, (there[0], here[1]), (here[0], there[1]), strict=True
        ):
            with torch.cuda.stream(stream):
                target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    yield row("h2d and d2h", host_seconds(machine, run, 5), moved_bytes=2 * size)


def many_copies(machine: Machine) -> Iterator[Row]:
    """1000 pinned copies, one after the other: seconds of each, on the device and to launch."""
    if not machine.cuda:
        return
    for size in (1 << 10, 64 << 10):
        here, there = (bytes_tensor(size, where) for where in ("pinned", "cuda"))

        def run(target: Tensor = there, source: Tensor = here) -> None:
            for _ in range(1000):
                target.copy_(source, non_blocking=True)

        for what, clock in (("copy call, device", device_seconds), ("copy call", host_seconds)):
            seconds = [s / 1000 for s in clock(machine, run, 5)]
            yield row(what, seconds, size_bytes=size)


def page_locking(machine: Machine) -> Iterator[Row]:
    """`cudaHostRegister` of memory that nobody has touched, and of memory in use."""
    if not machine.cuda:
        return
    size, runtime = 4 << 30, torch.cuda.cudart()
    for state in ("untouched", "touched"):
        memory = torch.empty(size, dtype=torch.uint8)
        if state == "touched":
            memory.fill_(1)
        start = time.perf_counter()
        error = int(runtime.cudaHostRegister(memory.data_ptr(), size, 0))
        seconds = time.perf_counter() - start
        if not error:
            runtime.cudaHostUnregister(memory.data_ptr())
        yield row("page-lock", [seconds], memory=state, moved_bytes=size, error=error)


# -- host memory ------------------------------------------------------------------------------


def host_copies(machine: Machine) -> Iterator[Row]:
    """The copy into staging: pageable to pinned memory, by threads."""
    size = (1 << 30) // machine.scale
    source = bytes_tensor(size, "pageable")
    target = bytes_tensor(size, "pinned" if machine.cuda else "pageable")
    for threads in machine.threads():
        with torch_threads(threads):
            seconds = host_seconds(machine, lambda: target.copy_(source), 5)
        yield row("pin", seconds, threads=threads, moved_bytes=size)


def host_reading(machine: Machine) -> Iterator[Row]:
    """Reading host memory, by threads: the sum of 64-bit integers."""
    size = (2 << 30) // machine.scale
    words = bytes_tensor(size, "pageable").view(torch.int64)
    for threads in machine.threads():
        with torch_threads(threads):
            seconds = host_seconds(machine, words.sum, 5)
        yield row("host read", seconds, threads=threads, moved_bytes=size)


def cpu_attention(machine: Machine) -> Iterator[Row]:
    """The CPU's decode attention, by threads, sequences and context: GB/s of keys and values."""
    n, context = 64 // min(64, machine.scale), 512
    for threads in machine.threads():
        yield _cpu_attention(machine, n, context, threads)
    for n, context in ((8, 512), (64, 128), (64, 2048), (512, 128)):
        yield _cpu_attention(machine, max(1, n // machine.scale), context, machine.cores)


def _cpu_attention(machine: Machine, n: int, context: int, threads: int) -> Row:
    queries = machine.random(n, HEADS, HEAD_DIM, device="cpu")
    keys, values = (machine.random(n * context, KV_HEADS, HEAD_DIM, device="cpu") for _ in range(2))
    offsets, contexts = [context * i for i in range(n)], [context] * n
    out = torch.empty_like(queries)

    def run() -> None:
        decode_attention(queries, keys, values, offsets, contexts, out, threads)

    run()
    moved = keys.nbytes + values.nbytes
    more = {"sequences": n, "context": context, "threads": threads, "moved_bytes": moved}
    return row("cpu attention", host_seconds(machine, run, 7), **more)


def contention(machine: Machine) -> Iterator[Row]:
    """h2d from pinned memory while all cores read host memory, and the other way round."""
    if not machine.cuda:
        return
    size = 1 << 30
    here, there = bytes_tensor(size, "pinned"), torch.empty(size, dtype=torch.uint8, device="cuda")
    words = bytes_tensor(2 * size, "pageable").view(torch.int64)
    copying = (lambda: _copied(there, here), size)
    reading = (words.sum, 2 * size)
    for what, own, other in (("h2d", copying, reading), ("host read", reading, copying)):
        with meanwhile(other[0]):
            seconds = host_seconds_alone(own[0], 5)
        yield row(f"{what}, contended", seconds, moved_bytes=own[1])


def host_seconds_alone(action: Action, repeats: int) -> list[float]:
    """As `host_seconds`, but other streams may be at work."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


class meanwhile:  # noqa: N801  # a context manager, read as an adverb
    """An action over and over in another thread, on a stream of its own."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.ended = threading.Event()
        self.pool = ThreadPoolExecutor(1)

    def __enter__(self) -> None:
        self.running = self.pool.submit(self._repeat)
        time.sleep(0.2)

    def _repeat(self) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            while not self.ended.is_set():
                self.action()

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.running.result()
        self.pool.shutdown()


LINKS: tuple[Callable[[Machine], Iterator[Row]], ...] = (
    copies,
    both_directions,
    host_copies,
    host_reading,
    cpu_attention,
    contention,
)
LATER = (many_copies, page_locking)
