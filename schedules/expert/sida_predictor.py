"""The cost of SiDA's hash function: a small network on the CPU that names all layers' experts.

SiDA-MoE (arXiv 2310.18859), section 3.4.2: a fully connected layer compresses the embeddings, a
two-layer LSTM reads them, attention with sparsemax mixes its outputs, a residual connection and one
linear head for each layer with experts follow. Width and number format (float32) are those of the
authors' code (github.com/timlee0212/SiDA-MoE, src/model/predictor.py); embeddings and the factors
of the hash table have the model's own format.

Simplified: operations that are linear in the width alone (sigmoids, sparsemax, sums) are left out.
Assumed, because the authors' model is an encoder: for a new token the LSTM goes on from its state,
and the outputs for earlier tokens are kept; a token attends to those before it. In a model with an
encoder what the decoder reads follows the prompt.

By hand, Switch-Base-128 (h = 768, H = 256, six layers with experts in each stack, E = 128):
compression 768 x 256 + 256, LSTM 2 x (4 x 256 x 512 + 2 x 4 x 256), residual 256 x 256 + 256,
heads 12 x (256 x 128 + 128): 1,710,080 parameters, 6.8 MB in float32.
"""

from collections.abc import Sequence
from functools import lru_cache

from schedules.batching import MicroBatch
from schedules.layer import LayerWork
from schedules.model import LayerSpec
from schedules.task import Work

WIDTH = 256
"""Of the compressed embeddings and the LSTM's states (`hidden_dim` of the authors' code)."""

NUMBER_BYTES = 4
"""Of the predictor's weights and states: float32."""

LSTM_LAYERS = 2
RECURRENT = 4 * WIDTH * WIDTH
"""Parameters of an LSTM layer that meet the state; those that meet its input are as many."""


class HashFunction:
    """Sizes and work of the predictor, which runs on the CPU.

    Parameters
    ----------
    work: of the model.
    layers: its layers with experts, of both stacks.
    """

    def __init__(self, work: LayerWork, layers: Sequence[LayerSpec]) -> None:
        self.work = work
        self.layers = tuple(layers)
        self.read_prompts = lru_cache(maxsize=None)(self._read_prompts)
        self.read_tokens = lru_cache(maxsize=None)(self._read_tokens)
        self.head = lru_cache(maxsize=None)(self._head)

    @property
    def trunk_parameters(self) -> int:
        """Compression, LSTM and residual, with their biases (an LSTM layer has two)."""
        compression = (self.work.model.hidden_size + 1) * WIDTH
        lstm = LSTM_LAYERS * (2 * RECURRENT + 2 * 4 * WIDTH)
        return compression + lstm + (WIDTH + 1) * WIDTH

    @property
    def parameters(self) -> int:
        """All parameters; the embeddings are the model's own."""
        return self.trunk_parameters + sum((WIDTH + 1) * layer.n_experts for layer in self.layers)

    @property
    def weight_bytes(self) -> float:
        """Its weights and a copy of the model's embeddings, in host memory."""
        embeddings = self.work.model.embedding_parameters * self.work.b
        return self.parameters * NUMBER_BYTES + embeddings

    def state_bytes(self, context: float, sequences: float, tokens: float) -> float:
        """The LSTM's outputs of all tokens that will have been read, state and cell of each
        sequence and layer, and what the heads take of the tokens of one pass."""
        rows = context + 2 * LSTM_LAYERS * sequences + tokens
        return rows * WIDTH * NUMBER_BYTES

    def table_bytes(self, tokens: float) -> float:
        """Expert ids and scaling factors of so many tokens in all layers."""
        return sum(self.work.routed_bytes(layer, tokens) for layer in self.layers)

    def _read_prompts(self, batch: MicroBatch) -> Work:
        """Whole prompts; scores are computed of all pairs, and those of later tokens masked."""
        tokens = batch.prompt_tokens
        return self._read(tokens, batch.longest, batch.sum_of_squares, tokens)

    def _read_tokens(self, sequences: float, context: float) -> Work:
        """One new token of each sequence; `context` tokens in all have been read so far."""
        return self._read(sequences, 1, context, context)

    def _read(self, tokens: float, steps: float, pairs: float, context: float) -> Work:
        """From embeddings to what the heads take.

        Flops by token: 2 h H to compress, 2 x 2 x 8 H^2 in the LSTM, 2 H^2 of the residual; 4 H for
        each pair in attention. Weights are read once, but those of the LSTM's recurrence in each of
        `steps` steps, for each needs the state of the one before.
        """
        h = self.work.model.hidden_size
        dense = 2 * h * WIDTH + LSTM_LAYERS * 2 * 2 * RECURRENT + 2 * WIDTH * WIDTH
        weights = self.trunk_parameters + (steps - 1) * LSTM_LAYERS * RECURRENT
        numbers = weights + tokens * 2 * WIDTH + context * WIDTH
        moved = numbers * NUMBER_BYTES + tokens * h * self.work.b
        return self._on_cpu({"gemm": tokens * dense, "attention": 4 * WIDTH * pairs}, moved)

    def _head(self, layer: LayerSpec, tokens: float) -> Work:
        """One layer's logits and choices: 2 H E flops a token."""
        matrix = WIDTH * layer.n_experts
        moved = (matrix + layer.n_experts + tokens * WIDTH) * NUMBER_BYTES
        moved += self.work.routed_bytes(layer, tokens)
        return self._on_cpu({"gemm": 2 * tokens * matrix}, moved)

    def _on_cpu(self, flops: dict[str, float], moved: float) -> Work:
        """One parallel region, as attention on the CPU is counted."""
        return Work(
            device="cpu",
            dtype="float32",
            flops=flops,
            bytes={"cpu": moved},
            calls=1,
            share=self.work.cpu_share,
        )
