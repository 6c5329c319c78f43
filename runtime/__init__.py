"""Executes schedules on real devices and records when each task ran (floor 2).

This package will hold the executor that maps each `op` of a task to a torch function and each
`Buffer` to a tensor: on CUDA with one stream per stream of the schedule, and without a GPU with
one worker thread per stream. It leaves the same timeline as the simulator and is the only package
that imports torch, which is installed with the extra `runtime`.
"""
