"""The options of a question, in place of a command's parameter `asked`."""

from inspect import signature
from typing import Annotated

import pytest
import typer

from moelab.asking import Asked, asks, question
from schedules.errors import BadInput
from sim.question import Question

S1 = {"model": "mixtral-8x7b", "hardware": "gcp-t4-24c", "workload": "mtbench"}


def command(schedule: Annotated[str, typer.Argument()], asked: Asked, deep: bool = False) -> None:
    """What it does."""
    command.got = schedule, asked, deep


def test_options_stand_where_the_question_was():
    found = signature(asks(command))
    assert list(found.parameters) == ["schedule", *signature(question).parameters, "deep"]
    assert asks(command).__doc__ == "What it does."


def test_the_command_gets_a_question():
    asks(command)(schedule="cgopipe", deep=True, **S1, **defaults(batch=8, policy=["r_w=0.1"]))
    schedule, asked, deep = command.got
    assert (schedule, deep) == ("cgopipe", True)
    assert asked == Question(*S1.values(), batch=8, policy={"r_w": "0.1"}, modifiers={})


def test_values_that_cannot_be_read():
    with pytest.raises(BadInput, match="r_w"):
        asks(command)(schedule="cgopipe", deep=True, **S1, **defaults(policy=["r_w"]))


def test_a_command_without_a_question():
    with pytest.raises(TypeError, match="has no parameter 'asked'"):
        asks(lambda schedule: None)


def defaults(**given):
    """What the command line passes for options that are left out, with some that are not."""
    rest = {n: p.default for n, p in signature(question).parameters.items() if n not in S1}
    return rest | given
