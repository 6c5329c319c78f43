"""Operations that fail on purpose, and a guard against runs that hang."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from runtime.operations import OPERATIONS
from runtime.weights import WeightSource
from schedules.policy import make_policy
from schedules.schedule import Schedule, find_schedule
from tests.runtime.checkpoints import random_prompts
from tests.runtime.runs import run

PROMPTS = random_prompts([3, 9, 1, 7, 5])
GEN_LEN = 4
PATIENCE_S = 120.0  # a test that takes longer hangs; far more than any takes on a busy machine


def within(action: Callable[[], Any]) -> Any:
    """What `action` returns or raises; fails when it hangs."""
    found: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            found.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="within", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the run hangs"
    if errors:
        raise errors[0]
    return found[0]


def lanes() -> list[str]:
    """Worker threads of sessions that are alive."""
    return [t.name for t in threading.enumerate() if t.name.startswith("moelab ")]


@dataclass
class Fault:
    """Lets one operation fail: in the task of this layer and step that runs, or when it is issued.

    `seen` are the streams of the tasks that failed.
    """

    op: str
    layer: int
    step: int
    error: BaseException
    issued: bool = False
    seen: list[str] = field(default_factory=list)

    def install(
        self, monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool] = lambda: True
    ) -> None:
        """Until the end of the test, and only while `when`."""
        right = OPERATIONS[self.op]

        def operation(context, task, operands):
            here = (task.layer, task.step) == (self.layer, self.step) and when()
            if here and self.issued:
                self._fail(task.stream)
            action = right(context, task, operands)
            return (lambda: self._fail(task.stream)) if here else action

        monkeypatch.setitem(OPERATIONS, self.op, operation)

    def _fail(self, stream: str) -> int:
        self.seen.append(stream)
        raise self.error


def generate(kind: str | type[Schedule], source: WeightSource, **policy: object) -> list[list[int]]:
    """All tokens, or the error; it must leave no thread behind either way."""
    kind = find_schedule(kind) if isinstance(kind, str) else kind
    mu = len(PROMPTS) if kind.one_batch else 2
    values = make_policy({"N": len(PROMPTS), "mu": mu} | policy)
    interval = sys.getswitchinterval()
    try:
        return within(lambda: run(kind, source, values, PROMPTS, GEN_LEN).tokens)
    finally:
        assert lanes() == []
        assert sys.getswitchinterval() == interval
