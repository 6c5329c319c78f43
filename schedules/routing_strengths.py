"""How skewed and how correlated drawn routing is."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Exponent = Annotated[float, Field(ge=0, le=10)]  # beyond 10 one expert takes 99.9 % of the tokens


class Strengths(BaseModel):
    """The strengths of one stack.

    Parameters
    ----------
    exponent: s of Zipf's law; the r-th most popular expert of a layer is drawn in proportion to
        r^-s, 0: all alike.
    token_correlation: probability that a token takes the experts of the token before it.
    layer_correlation: probability that it takes the experts as popular as its own in the MoE layer
        before; together at most 1.
    active: how many experts of a layer are ever taken, the most popular ones; None: all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exponent: Exponent = 0.0
    token_correlation: Share = 0.0
    layer_correlation: Share = 0.0
    active: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _a_mixture(self) -> Self:
        check_mixture(self.token_correlation, self.layer_correlation)
        return self

    @property
    def is_independent(self) -> bool:
        """Whether no token depends on another."""
        return self.token_correlation == 0 and self.layer_correlation == 0


def check_mixture(token_correlation: float, layer_correlation: float) -> None:
    """Raises `ValueError` for two probabilities that exclude each other and exceed 1 together."""
    if token_correlation + layer_correlation > 1:
        raise ValueError(
            f"token_correlation {token_correlation:g} and layer_correlation {layer_correlation:g} "
            "are shares of the tokens; together they must not exceed 1"
        )
