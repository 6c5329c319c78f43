"""Typed reading of a Hugging Face config; errors name file, key, value and what is right."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schedules.errors import BadInput
from schedules.model import MAX_LAYERS, MAX_SIZE
from schedules.validated import shortened, shown


class _Required:
    """Stands for "there is no default"."""


REQUIRED = _Required()


@dataclass(frozen=True, slots=True)
class ConfigReader:
    """Values of a config, read by key; `where` names the file and `prefix` the section in errors.

    A key that is absent or null takes its default; without a default it must be there.
    """

    values: Mapping[str, Any]
    where: str
    prefix: str = ""

    def error(self, key: str, right: str) -> BadInput:
        """The error to raise for the value of a key; `right` completes "it must be ..."."""
        name = f"{self.prefix}{key}"
        if key not in self.values:
            return BadInput(f"{self.where}: {name} is missing; it must be {right}")
        return BadInput(f"{self.where}: {name} is {as_json(self.values[key])}; it must be {right}")

    def whole(
        self,
        key: str,
        default: int | _Required = REQUIRED,
        low: int = 1,
        high: int = MAX_SIZE,
    ) -> int:
        """A whole number from `low` to `high`."""
        value = self.values.get(key)
        if value is None and not isinstance(default, _Required):
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, f"a whole number from {low} to {high}")
        return value

    def layers(self, key: str, default: int | _Required = REQUIRED) -> int:
        """A number of layers."""
        return self.whole(key, default, high=MAX_LAYERS)

    def flag(self, key: str, default: bool) -> bool:
        """`true` or `false`."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        """One of the allowed words."""
        value = self.values.get(key)
        if value is None:
            return default
        if value not in allowed:
            raise self.error(key, f"one of {', '.join(allowed)}")
        return str(value)

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, empty by default."""
        value = self.values.get(key)
        if value is None:
            return ()
        right = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
        if not right:
            raise self.error(key, "a list of whole numbers of at least 0")
        return tuple(value)

    def section(self, key: str) -> "ConfigReader":
        """A nested object, as a reader of its own."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, "an object with keys and values")
        return ConfigReader(value, self.where, f"{self.prefix}{key}.")

    def must_be(self, key: str, wanted: object) -> None:
        """Refuses any other value of a key whose absence means `wanted`."""
        if self.values.get(key, wanted) not in (wanted, None):
            raise self.error(key, f"{as_json(wanted)}, the only supported value")

    def divides(self, key: str, other: str, by: int, whole: int) -> None:
        """The value of `key`, `by`, must divide that of `other`, `whole`."""
        if whole % by:
            raise self.error(key, f"a divisor of {other}, which is {whole}")


def as_json(value: object) -> str:
    """A value as the config writes it, shortened.

    >>> as_json(None), as_json([True])
    ('null', '[true]')
    """
    try:
        return shortened(json.dumps(value))
    except (TypeError, ValueError, RecursionError):  # only in values that never were a file
        return shown(value)
