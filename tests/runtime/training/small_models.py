"""A model that trains in a moment, shared by the tests of training."""

import torch
from torch import Tensor

from runtime.training.model import MoELanguageModel, Sizes, new_model

SIZES = Sizes(
    vocabulary=24, context=8, layers=4, width=16, heads=2, experts=5, expert_size=8, top_k=1
)


def model(top_k: int = 1, seed: int = 0) -> MoELanguageModel:
    """A random model with `top_k` of five experts."""
    return new_model(Sizes(**(vars(SIZES) | {"top_k": top_k})), seed)


def tokens(rows: int = 3, context: int = SIZES.context, seed: int = 0) -> Tensor:
    """Random token ids, shape (rows, context)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SIZES.vocabulary, (rows, context), generator=generator)
