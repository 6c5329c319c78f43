"""moelab, of which the second process is killed: mortal_run.py JOURNAL ARGUMENTS...

In the second decode step after the first sequences were saved, without a word.
"""

import os
import signal
import sys
from pathlib import Path

from moelab.cli import main
from runtime.operations import OPERATIONS
from runtime.parallel import all_reduce


def mortal(context, task, operands):
    """The sum over all processes, unless this one dies."""
    run = all_reduce(context, task, operands)

    def last() -> int:
        if context.rank == 1 and task.step == 2 and Path(sys.argv[1]).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return run()

    return last


if __name__ == "__main__":
    OPERATIONS["all_reduce"] = mortal  # type: ignore[index]
    main(sys.argv[2:])
