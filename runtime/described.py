"""Errors of libraries and of other people's programs, for the sentences of ours."""

import torch.distributed as dist


def described(error: BaseException) -> str:
    """What kind of error it is, and the first line of what it says.

    >>> described(KeyError("x")), described(MemoryError())
    ("KeyError: 'x'", 'MemoryError')
    """
    lines = str(error).strip().splitlines()
    lost = dist.is_available() and isinstance(error, dist.DistError)
    if lost or "gloo/transport" in str(error):
        return "the connection to another process of the run is lost; its own message says why"
    return ": ".join([type(error).__name__, *lines[:1]])
