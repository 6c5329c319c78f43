"""moelab: one schedule, two clocks. How Mixture-of-Experts models run on GPUs too small for them.

>>> from sim import simulate
>>> result = simulate("zero-inference", "mixtral-8x7b", "gcp-t4-24c", "mtbench", gen_len=8, batch=8)
>>> result.schedule
'zero-inference'
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("moelab")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "uninstalled"
