"""Executes schedules on real devices and records when each task ran (floor 2).

A schedule issues tasks to an `Executor`, which has a lane for each stream: on CUDA a CUDA stream
with a worker that launches, without a GPU a worker that computes. `Operations` maps the `op` of a
task to a torch function, `Memory` each buffer to a tensor, and `DeviceWeights` is the page table.
`Session` is one generation; `run` goes from a question to the files of a folder. The timeline is
that of the simulator. No other package imports torch, which comes with the extra `runtime`.
"""
