"""moelab, slow from the middle of decoding on: slow_run.py JOURNAL ARGUMENTS...

It says "there" in the second decode step after the first sequences were saved; from then on each
attention of the CPU takes a while, so that a signal meets the run and not its end.
"""

import sys
import time
from pathlib import Path

from moelab.cli import main
from runtime.attention import cpu_attention
from runtime.operations import OPERATIONS

PAUSE_S = 0.25
slow = False


def dawdle(context, task, operands):
    """The attention, after a pause."""
    run = cpu_attention(context, task, operands)

    def paused() -> int:
        global slow
        if not slow and task.step == 2 and Path(sys.argv[1]).exists():
            slow = True
            print("there", flush=True)
        if slow:
            time.sleep(PAUSE_S)
        return run()

    return paused


if __name__ == "__main__":
    OPERATIONS["cpu_attention"] = dawdle  # type: ignore[index]
    main(sys.argv[2:])
