"""From plain values to a pydantic model, with errors for users."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schedules.errors import BadInput, suggest

Model = TypeVar("Model", bound=BaseModel)
LONGEST_VALUE = 60  # characters of an offending value that an error shows


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """An instance of `model`; raises `BadInput`: `where`, the key, its value and what is right."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise BadInput(f"{where}: {_sentence(error.errors()[0], model)}") from None


def shown(value: object) -> str:
    """A value as errors print it, shortened.

    >>> shown("x" * 100)[-5:]
    'xx...'
    """
    try:
        text = repr(value)
    except ValueError:  # a whole number with more digits than Python prints
        text = "a number of thousands of digits"
    return shortened(text)


def shortened(text: str) -> str:
    """A text cut to what an error shows."""
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def _sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"{key}: {message}" if key else message
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{suggest(key, model.model_fields)}"
    return f"{key} is {shown(error['input'])}; {error['msg'].replace('Input should', 'it should')}"
