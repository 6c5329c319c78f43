"""One run of a schedule on this machine, from a question to the files of its folder."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.architecture import Architecture
from runtime.batches import Batch, policy_for, split
from runtime.changes import change_of
from runtime.checkpoint import Checkpoint, check_finite
from runtime.device import DeviceOptions, open_device
from runtime.distributed import process_group
from runtime.environment import hardware_name, provenance
from runtime.files import VERIFICATION, RunFiles, write_json
from runtime.following import Shadow, share_finished
from runtime.generate import Generated, Interrupted, generate
from runtime.journal import Finished, Journal, check_folder
from runtime.outcome import Asked, measured_result
from runtime.placing import KERNELS, check_memory, check_schedule
from runtime.predictor import PredictorNetwork, check_predictor
from runtime.predictor_files import predictor_identity, random_predictor, read_predictor
from runtime.profile import profiled
from runtime.progress import Meter, progress_bar
from runtime.prompts import Prompts, draw_prompts, read_prompts
from runtime.quantised import Quantised, changed_architecture
from runtime.question import folder_identity, question, random_identity
from runtime.random_weights import RandomWeights
from runtime.run_options import Output, Question
from runtime.sampling import make_sampler
from runtime.session import Session
from runtime.tokenizer import load_tokenizer
from runtime.verify import Verification, plain_reference, transformers_reference, verify
from runtime.verify_decided import Decided, verify_decided
from runtime.weights import WeightSource
from schedules.errors import BadInput, Infeasible, MoelabError, in_gb
from schedules.model import MAX_SIZE, ModelSpec
from schedules.model_presets import load_model
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule, find_schedule
from schedules.validated import validated

__all__ = ["Outcome", "Output", "Question", "run"]

MICRO_BATCHES = 4  # of a batch, where nobody said how large they are


@dataclass(frozen=True)
class Outcome:
    """What came of a run; `verification` is None unless it was asked for.

    `texts` are the generated texts by prompt, None without a tokenizer. `differing` counts the
    sequences of an interrupted run for which other tokens came out when it was resumed.
    """

    result: Mapping[str, Any]
    sequences: tuple[Finished, ...]
    texts: tuple[str | None, ...]
    verification: Verification | None
    differing: int = 0


def run(asked: Question, options: DeviceOptions, output: Output) -> Outcome | None:
    """Generate, and write the files of the run; None in processes that write none.

    Under torchrun every process runs one GPU of a tensor-parallel node.

    Raises `BadInput` and `Infeasible` for what cannot be done, `MoelabError` for a run that fails.
    """
    if output.verify and not asked.sampling.greedy:
        raise BadInput("--verify compares greedy tokens; it needs --temperature 0")
    kind = find_schedule(asked.schedule)
    check_folder(output.folder, output.resume)
    doing = Doing()
    try:
        with process_group(options.device) as (rank, world):
            return _Run(asked, options, output, kind, rank, world, doing).run()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted while {doing.what}") from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch's way
            raise MoelabError(f"the machine's memory was full while {doing.what}") from error
        raise


@dataclass
class Doing:
    """What a run is at, for the sentence in which it may end."""

    what: str = "loading the model; nothing was written"


@dataclass
class _Run:
    asked: Question
    options: DeviceOptions
    output: Output
    kind: type[Schedule]
    rank: int
    world: int
    doing: Doing
    pinned: bool | None = None  # host memory of the last session
    decided: Decided = field(default_factory=Decided)

    def run(self) -> Outcome | None:
        asked = self.asked
        self.plain_arch = self._architecture()
        self.arch = self._modified_architecture()
        self.tokenizer = load_tokenizer(asked.checkpoint)
        self.prompts = self._prompts()
        self.gen_len = self._gen_len()
        self.policy = self._policy()
        self._check()
        self.predictor = self._predictor()
        source = self._source()
        if self.output.check_weights and asked.checkpoint is not None:
            check_finite(source)
        changed = self.arch.spec != self.plain_arch.spec
        self.source = Quantised(source, self.arch) if changed else source
        self.eos = () if asked.ignore_eos else self.arch.eos_token_ids
        if self.rank:
            self._follow()
            return None
        return self._lead()

    def _check(self) -> None:
        """All that can be refused before the weights are read, which may take minutes."""
        spec, longest = self.arch.spec, max(self.prompts.lengths)
        positions = MAX_SIZE if spec.is_encoder_decoder else spec.max_context  # T5's have no limit
        self.prompts.check_context(self.gen_len, positions, spec.name)
        self.arch.check_context(longest + self.gen_len)
        check_schedule(self.kind, self.policy, self.world)
        if self.world > 1:
            self.arch.sharded(self.rank, self.world)
        open_device(self.options)
        if self.asked.checkpoint is None:
            self._check_host_memory()
        batches = split(self.prompts.token_ids, self.policy.N)
        for size in (sum, max):  # the most tokens, and the longest prompt
            batch = max(batches, key=lambda b: size(map(len, b.prompts)))
            policy = policy_for(self.policy, self.kind, batch)
            lengths = [len(prompt) for prompt in batch.prompts]
            check_memory(self.kind, spec, policy, lengths, self.gen_len, self.options, self.world)

    def _lead(self) -> Outcome:
        asked, output = self.asked, self.output
        with Journal(output.folder, self._question(), output.resume) as journal:
            share_finished(self.world, journal.finished)
            files = RunFiles(journal, f"{asked.schedule}, {self.arch.spec.name}")
            total = len(self.prompts) * self.gen_len
            self.doing.what = "generating; the same command with --resume goes on"
            with progress_bar(total, output.progress) as meter, self._profile():
                found = self._generate(journal, meter, files.keep)
            self.doing.what = "writing the results; the same command with --resume does it"
            result = self._result(files, found)
            files.write(found.sequences, self.prompts.token_ids, self.tokenizer, result)
        self.doing.what = f"verifying; all but {VERIFICATION} is written"
        texts = tuple(self.tokenizer.decode(s.token_ids) for s in found.sequences)
        verification = self._verify(found.sequences)
        return Outcome(result, found.sequences, texts, verification, found.differing)

    def _follow(self) -> None:
        shadow = Shadow(share_finished(self.world, None))
        self._generate(shadow, None, None)  # type: ignore[arg-type]

    def _generate(self, journal: Journal, meter: Meter | None, keep: Any) -> Generated:
        more = {} if keep is None else {"keep": keep}
        return generate(
            self._open,
            self.prompts.token_ids,
            self.gen_len,
            self.policy.N,
            self.eos,
            journal,
            meter,
            routing=keep is not None and self.arch.spec.n_experts > 1,
            **more,
        )

    def _open(self, batch: Batch) -> Session:
        place = "cuda" if self.options.device == "cuda" else "cpu"
        sampler = make_sampler(self.asked.sampling, batch.indices, self.gen_len, place)
        session = Session(
            self.kind,
            self.source,
            policy_for(self.policy, self.kind, batch),
            batch.prompts,
            self.gen_len,
            self.options,
            sampler,
            self.rank,
            self.world,
            predictor=self.predictor,
        )
        self.pinned = session.schedule.node.pinned
        self.decided.note(batch, session.schedule)
        return session

    # -- the question ---------------------------------------------------------------------------

    def _architecture(self) -> Architecture:
        asked = self.asked
        if asked.checkpoint is not None:
            return Architecture.from_folder(asked.checkpoint, asked.dtype)
        assert asked.random_weights is not None
        spec = load_model(asked.random_weights)
        if asked.layers is not None:
            spec = spec.with_layers(asked.layers)
        if asked.dtype is not None:
            spec = validated(ModelSpec, dict(spec) | {"dtype": asked.dtype}, spec.name)
        return Architecture.from_spec(spec)

    def _modified_architecture(self) -> Architecture:
        asked = self.asked.modifiers
        if asked.ssd is not None:
            raise BadInput("the runtime keeps weights in host memory; 'ssd' is simulated only")
        if self.world > 1 and (asked.weights or asked.experts):
            raise BadInput("packed weights run on one GPU; leave their modifiers out")
        return changed_architecture(self.plain_arch, asked.applied(self.plain_arch.spec))

    def _source(self) -> WeightSource:
        asked = self.asked
        if asked.checkpoint is not None:
            return Checkpoint(asked.checkpoint, asked.dtype)
        return RandomWeights(self.plain_arch, asked.sampling.seed)

    def _predictor(self) -> PredictorNetwork | None:
        """What names the experts in place of the routers, if something does."""
        file, found = self.asked.predictor, None
        if file is not None:
            found = read_predictor(file, self.arch.spec)
        elif self.asked.checkpoint is None and self.kind.change == "predicted":
            found = random_predictor(self.arch.spec, self.asked.sampling.seed)
        check_predictor(self.kind, found)
        return found

    def _predictor_identity(self) -> str | None:
        if self.asked.predictor is not None:
            return predictor_identity(self.asked.predictor)
        return None if self.predictor is None else f"random, seed {self.asked.sampling.seed}"

    def _check_host_memory(self) -> None:
        spec, there = self.arch.spec, self.options.host_memory_bytes
        needed = spec.parameters * spec.bytes_per_parameter
        if needed > there:
            raise Infeasible(
                f"random weights of {spec.name} need {in_gb(needed)} of host memory, of which "
                f"there are {in_gb(there)}; take fewer --layers, or raise --host-memory"
            )

    def _prompts(self) -> Prompts:
        asked, vocabulary = self.asked, self.arch.spec.vocab_size
        if asked.prompts is not None:
            return read_prompts(asked.prompts, vocabulary, self.tokenizer)
        assert asked.workload is not None
        assert asked.batch is not None
        return draw_prompts(asked.workload, asked.batch, vocabulary, asked.sampling.seed)

    def _gen_len(self) -> int:
        if self.asked.gen_len is not None:
            return self.asked.gen_len
        assert self.asked.workload is not None
        return self.asked.workload.gen_len

    def _policy(self) -> Policy:
        """What was asked; N and mu are at most the number of prompts."""
        asked, there = self.asked, len(self.prompts)
        n = there if asked.batch is None else asked.batch
        mu = min(n, there) if self.kind.one_batch else -(-min(n, there) // MICRO_BATCHES)
        if asked.micro_batch is not None:
            mu = asked.micro_batch
        policy = make_policy({"N": n, "mu": mu} | dict(asked.policy))
        most = {"N": min(policy.N, there), "mu": min(policy.mu, there)}
        return policy.model_copy(update=most)

    def _question(self) -> dict[str, Any]:
        asked, spec = self.asked, self.arch.spec
        if asked.checkpoint is not None:
            identity = folder_identity(asked.checkpoint)
        else:
            identity = random_identity(spec.name, spec.n_layers, asked.sampling.seed)
        return question(
            asked.schedule,
            self.policy,
            identity,
            self.prompts,
            self.gen_len,
            asked.sampling,
            self.eos,
            spec.dtype,
            self.options.device,
            self.world,
            asked.modifiers.told(),
            self._predictor_identity(),
        )

    # -- results --------------------------------------------------------------------------------

    def _profile(self) -> AbstractContextManager[object]:
        if not self.output.profile:
            return nullcontext()
        return profiled(self.output.folder / "profile.json", self.options.device == "cuda")

    def _result(self, files: RunFiles, found: Generated) -> dict[str, Any]:
        asked, spec, options = self.asked, self.arch.spec, self.options
        names = Asked(
            asked.schedule,
            spec.name,
            hardware_name(options.device),
            self.prompts.name,
            self.policy.model_dump(),
        )
        presets = {
            "model": spec.name,
            "hardware": names.hardware,
            "workload": self.prompts.name,
            "gen_len": self.gen_len,
            "padded": False,
            "dtype": spec.dtype,
            "n_gpus": self.world,
            "host_memory_pinned": self.pinned,
            "kernels": asdict(KERNELS),
            "modifiers": asked.modifiers.told(),
            "model_spec": spec.model_dump(mode="json"),
            "prompt_lengths": list(self.prompts.lengths),
            "link_bytes_per_s": options.link_bytes_per_s,
            "threads": list(options.threads),
        }
        where = provenance(asked.sampling.seed, presets, options.device, self._question())
        return measured_result(names, files.records(), found.sequences, where)

    def _verify(self, sequences: Sequence[Finished]) -> Verification | None:
        if not self.output.verify:
            return None
        if self.kind.change == "mixed-precision":
            return self._verify_decided(sequences)
        spec, folder = self.arch.spec, self.asked.checkpoint
        reference = (
            plain_reference(self.source, lambda: change_of(self.kind, self.policy, self.predictor))
            if folder is None or self.kind.change or self.asked.modifiers.told()
            else transformers_reference(folder, spec.dtype)
        )
        found = verify(
            reference, self.prompts.token_ids, sequences, self.gen_len, self.eos, spec.dtype
        )
        write_json(self.output.folder / VERIFICATION, found.to_dict())
        return found

    def _verify_decided(self, sequences: Sequence[Finished]) -> Verification:
        """By the decisions of this run."""
        found = verify_decided(
            self.decided,
            self.source,
            self.prompts.token_ids,
            sequences,
            self.gen_len,
            self.eos,
        )
        write_json(self.output.folder / VERIFICATION, found.to_dict())
        return found
