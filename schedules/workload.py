"""The workload: what the requests ask for, apart from the model and the machine."""

from pydantic import BaseModel, ConfigDict, StrictBool, field_validator

from schedules.lengths import PromptLengths, positive_int


class Workload(BaseModel):
    """Prompt lengths and generation length of a batch of requests.

    Fields: `name`; `prompt_lengths`, a `Fixed`, `Spread` or `Listed` description; `gen_len`, tokens
    that every request generates (at least 1, the first of them by prefill); `padded`, whether every
    prompt is computed and stored as if it were the longest, as FlexGen does; `source`, where the
    numbers come from.

    Raises `BadInput` for a length or `gen_len` that is not a whole number of at least 1.

    >>> from schedules.lengths import Listed
    >>> quiz = Workload(
    ...     name="quiz", prompt_lengths=Listed(lengths=(30, 50)), gen_len=8, padded=True, source="-"
    ... )
    >>> quiz.requests(3), quiz.lengths(3), quiz.average
    ((30, 50, 30), (50, 50, 50), 40.0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    prompt_lengths: PromptLengths
    gen_len: int
    padded: StrictBool
    source: str

    @field_validator("gen_len", mode="before")
    @classmethod
    def _whole(cls, value: object) -> int:
        return positive_int(value, "gen_len")

    @property
    def average(self) -> float:
        """Average prompt length in tokens, without padding."""
        return self.prompt_lengths.average

    @property
    def longest(self) -> int:
        """Longest prompt in tokens."""
        return self.prompt_lengths.longest

    def requests(self, n: int) -> tuple[int, ...]:
        """Prompt lengths in tokens of a batch of `n` requests, without padding.

        The same `n` always gives the same lengths. Raises `BadInput` unless `n` is at least 1.
        """
        return self.prompt_lengths.sample(positive_int(n, "the number of requests"))

    def lengths(self, n: int) -> tuple[int, ...]:
        """Prompt lengths in tokens of a batch of `n` requests as a schedule counts them.

        When `padded`, each is the longest of the workload, be it among these `n` or not.
        """
        requests = self.requests(n)
        return (self.longest,) * n if self.padded else requests
