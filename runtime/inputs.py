"""What a run is asked, made ready: the model, the prompts, how long, and by which policy."""

from dataclasses import dataclass
from typing import Self

from runtime.architecture import Architecture
from runtime.batches import policy_for, split
from runtime.checkpoint import Checkpoint, check_finite
from runtime.device import DeviceOptions, open_device
from runtime.placing import check_memory, check_schedule
from runtime.predictor import PredictorNetwork, check_predictor
from runtime.predictor_files import predictor_identity, random_predictor, read_predictor
from runtime.prompts import Prompts, draw_prompts, read_prompts
from runtime.quantised import Quantised, changed_architecture
from runtime.random_weights import RandomWeights
from runtime.run_options import Question
from runtime.tokenizer import Tokenizer, load_tokenizer
from runtime.weights import WeightSource
from schedules.errors import BadInput, Infeasible, in_gb
from schedules.model import MAX_SIZE, ModelSpec
from schedules.model_presets import load_model
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule
from schedules.validated import validated

MICRO_BATCHES = 4  # of a batch, where nobody said how large they are


@dataclass(frozen=True, eq=False)
class Inputs:
    """Everything of a run but its weights.

    `plain` is the model as its weights are stored, `arch` as it runs: with the modifiers.
    """

    asked: Question
    kind: type[Schedule]
    plain: Architecture
    arch: Architecture
    tokenizer: Tokenizer
    prompts: Prompts
    gen_len: int
    policy: Policy

    @classmethod
    def read(cls, asked: Question, kind: type[Schedule], world: int) -> Self:
        """Raises `BadInput` for what cannot be read, or does not go together."""
        plain = _architecture(asked)
        arch = _modified(asked, plain, world)
        tokenizer = load_tokenizer(asked.checkpoint)
        prompts = _prompts(asked, arch.spec.vocab_size, tokenizer)
        policy = _policy(asked, kind, len(prompts))
        return cls(asked, kind, plain, arch, tokenizer, prompts, _gen_len(asked), policy)

    @property
    def eos(self) -> tuple[int, ...]:
        """Tokens that end a sequence."""
        return () if self.asked.ignore_eos else self.arch.eos_token_ids

    def check(self, options: DeviceOptions, rank: int, world: int) -> None:
        """Refuse all that can be refused before the weights are read, which may take minutes.

        Raises `BadInput` for a schedule that cannot follow the policy or prompts that are too long,
        `Infeasible` for what does not fit.
        """
        spec, longest = self.arch.spec, max(self.prompts.lengths)
        positions = MAX_SIZE if spec.is_encoder_decoder else spec.max_context  # T5's have no limit
        self.prompts.check_context(self.gen_len, positions, spec.name)
        self.arch.check_context(longest + self.gen_len)
        check_schedule(self.kind, self.policy, world)
        if world > 1:
            self.arch.sharded(rank, world)
        open_device(options)
        if self.asked.checkpoint is None:
            _check_host_memory(spec, options.host_memory_bytes)
        batches = split(self.prompts.token_ids, self.policy.N)
        for size in (sum, max):  # the most tokens, and the longest prompt
            batch = max(batches, key=lambda b: size(map(len, b.prompts)))
            policy = policy_for(self.policy, self.kind, batch)
            lengths = [len(prompt) for prompt in batch.prompts]
            check_memory(self.kind, spec, policy, lengths, self.gen_len, options, world)

    def predictor(self) -> PredictorNetwork | None:
        """What names the experts in place of the routers, if something does."""
        file, found = self.asked.predictor, None
        if file is not None:
            found = read_predictor(file, self.arch.spec)
        elif self.asked.checkpoint is None and self.kind.change == "predicted":
            found = random_predictor(self.arch.spec, self.asked.sampling.seed)
        check_predictor(self.kind, found)
        return found

    def predictor_identity(self, found: PredictorNetwork | None) -> str | None:
        """Names a predictor in the files of a run."""
        if self.asked.predictor is not None:
            return predictor_identity(self.asked.predictor)
        return None if found is None else f"random, seed {self.asked.sampling.seed}"

    def weights(self, check: bool) -> WeightSource:
        """The weights of the model as it runs; `check`: read a checkpoint's, and refuse NaN."""
        asked = self.asked
        source: WeightSource
        if asked.checkpoint is None:
            source = RandomWeights(self.plain, asked.sampling.seed)
        else:
            source = Checkpoint(asked.checkpoint, asked.dtype)
            if check:
                check_finite(source)
        return source if self.arch.spec == self.plain.spec else Quantised(source, self.arch)


def _architecture(asked: Question) -> Architecture:
    if asked.checkpoint is not None:
        return Architecture.from_folder(asked.checkpoint, asked.dtype)
    assert asked.random_weights is not None
    spec = load_model(asked.random_weights)
    if asked.layers is not None:
        spec = spec.with_layers(asked.layers)
    if asked.dtype is not None:
        spec = validated(ModelSpec, dict(spec) | {"dtype": asked.dtype}, spec.name)
    return Architecture.from_spec(spec)


def _modified(asked: Question, plain: Architecture, world: int) -> Architecture:
    modifiers = asked.modifiers
    if modifiers.ssd is not None:
        raise BadInput("the runtime keeps weights in host memory; 'ssd' is simulated only")
    if world > 1 and (modifiers.weights or modifiers.experts):
        raise BadInput("packed weights run on one GPU; leave their modifiers out")
    return changed_architecture(plain, modifiers.applied(plain.spec))


def _prompts(asked: Question, vocabulary: int, tokenizer: Tokenizer) -> Prompts:
    if asked.prompts is not None:
        return read_prompts(asked.prompts, vocabulary, tokenizer)
    assert asked.workload is not None
    assert asked.batch is not None
    return draw_prompts(asked.workload, asked.batch, vocabulary, asked.sampling.seed)


def _gen_len(asked: Question) -> int:
    if asked.gen_len is not None:
        return asked.gen_len
    assert asked.workload is not None
    return asked.workload.gen_len


def _policy(asked: Question, kind: type[Schedule], there: int) -> Policy:
    """What was asked; N and mu are at most the number of prompts."""
    n = there if asked.batch is None else asked.batch
    mu = min(n, there) if kind.one_batch else -(-min(n, there) // MICRO_BATCHES)
    if asked.micro_batch is not None:
        mu = asked.micro_batch
    policy = make_policy({"N": n, "mu": mu} | dict(asked.policy))
    most = {"N": min(policy.N, there), "mu": min(policy.mu, there)}
    return policy.model_copy(update=most)


def _check_host_memory(spec: ModelSpec, there_bytes: int) -> None:
    needed = spec.parameters * spec.bytes_per_parameter
    if needed > there_bytes:
        raise Infeasible(
            f"random weights of {spec.name} need {in_gb(needed)} of host memory, of which "
            f"there are {in_gb(there_bytes)}; take fewer --layers, or raise --host-memory"
        )
