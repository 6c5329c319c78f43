"""One run of a schedule on this machine, from a question to the files of its folder."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from runtime.batches import Batch, policy_for
from runtime.changes import change_of
from runtime.device import DeviceOptions
from runtime.distributed import process_group
from runtime.environment import hardware_name, provenance
from runtime.files import VERIFICATION, RunFiles, write_json
from runtime.following import Shadow, share_finished
from runtime.generate import Generated, Interrupted, generate
from runtime.inputs import Inputs
from runtime.journal import Finished, Journal, check_folder
from runtime.outcome import Asked, measured_result
from runtime.placing import KERNELS
from runtime.profile import profiled
from runtime.progress import Meter, progress_bar
from runtime.question import folder_identity, question, random_identity
from runtime.run_options import Output, Question
from runtime.sampling import make_sampler
from runtime.session import Session
from runtime.verify import (
    Reference,
    Verification,
    plain_reference,
    transformers_reference,
    verify,
)
from runtime.verify_decided import Decided, verify_decided
from schedules.errors import BadInput, MoelabError
from schedules.schedule import Schedule, find_schedule

__all__ = ["Outcome", "Output", "Question", "run"]


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
        self.inputs = Inputs.read(self.asked, self.kind, self.world)
        self.inputs.check(self.options, self.rank, self.world)
        self.predictor = self.inputs.predictor()
        self.source = self.inputs.weights(self.output.check_weights)
        if self.rank:
            self._follow()
            return None
        return self._lead()

    def _lead(self) -> Outcome:
        asked, output, inputs = self.asked, self.output, self.inputs
        with Journal(output.folder, self._question(), output.resume) as journal:
            share_finished(self.world, journal.finished)
            files = RunFiles(journal, f"{asked.schedule}, {inputs.arch.spec.name}")
            total = len(inputs.prompts) * inputs.gen_len
            self.doing.what = "generating; the same command with --resume goes on"
            with progress_bar(total, output.progress) as meter, self._profile():
                found = self._generate(journal, meter, files.keep)
            self.doing.what = "writing the results; the same command with --resume does it"
            result = self._result(files, found)
            files.write(found.sequences, inputs.prompts.token_ids, inputs.tokenizer, result)
        self.doing.what = f"verifying; all but {VERIFICATION} is written"
        texts = tuple(inputs.tokenizer.decode(s.token_ids) for s in found.sequences)
        verification = self._verify(found.sequences)
        return Outcome(result, found.sequences, texts, verification, found.differing)

    def _follow(self) -> None:
        shadow = Shadow(share_finished(self.world, None))
        self._generate(shadow, None, None)  # type: ignore[arg-type]

    def _generate(self, journal: Journal, meter: Meter | None, keep: Any) -> Generated:
        inputs = self.inputs
        more = {} if keep is None else {"keep": keep}
        return generate(
            self._open,
            inputs.prompts.token_ids,
            inputs.gen_len,
            inputs.policy.N,
            inputs.eos,
            journal,
            meter,
            routing=keep is not None and inputs.arch.spec.n_experts > 1,
            **more,
        )

    def _open(self, batch: Batch) -> Session:
        place = "cuda" if self.options.device == "cuda" else "cpu"
        sampler = make_sampler(self.asked.sampling, batch.indices, self.inputs.gen_len, place)
        session = Session(
            self.kind,
            self.source,
            policy_for(self.inputs.policy, self.kind, batch),
            batch.prompts,
            self.inputs.gen_len,
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

    def _question(self) -> dict[str, Any]:
        asked, inputs = self.asked, self.inputs
        spec = inputs.arch.spec
        if asked.checkpoint is not None:
            identity = folder_identity(asked.checkpoint)
        else:
            identity = random_identity(spec.name, spec.n_layers, asked.sampling.seed)
        return question(
            asked.schedule,
            inputs.policy,
            identity,
            inputs.prompts,
            inputs.gen_len,
            asked.sampling,
            inputs.eos,
            spec.dtype,
            self.options.device,
            self.world,
            asked.modifiers.told(),
            inputs.predictor_identity(self.predictor),
        )

    # -- results --------------------------------------------------------------------------------

    def _profile(self) -> AbstractContextManager[object]:
        if not self.output.profile:
            return nullcontext()
        return profiled(self.output.folder / "profile.json", self.options.device == "cuda")

    def _result(self, files: RunFiles, found: Generated) -> dict[str, Any]:
        asked, inputs, options = self.asked, self.inputs, self.options
        spec = inputs.arch.spec
        names = Asked(
            asked.schedule,
            spec.name,
            hardware_name(options.device),
            inputs.prompts.name,
            inputs.policy.model_dump(),
        )
        presets = {
            "model": spec.name,
            "hardware": names.hardware,
            "workload": inputs.prompts.name,
            "gen_len": inputs.gen_len,
            "padded": False,
            "dtype": spec.dtype,
            "n_gpus": self.world,
            "host_memory_pinned": self.pinned,
            "kernels": asdict(KERNELS),
            "modifiers": asked.modifiers.told(),
            "model_spec": spec.model_dump(mode="json"),
            "prompt_lengths": list(inputs.prompts.lengths),
            "link_bytes_per_s": options.link_bytes_per_s,
            "threads": list(options.threads),
        }
        where = provenance(asked.sampling.seed, presets, options.device, self._question())
        return measured_result(names, files.records(), found.sequences, where)

    def _verify(self, sequences: Sequence[Finished]) -> Verification | None:
        if not self.output.verify:
            return None
        inputs = self.inputs
        tokens, eos = inputs.prompts.token_ids, inputs.eos
        if self.kind.change == "mixed-precision":  # by the decisions of this run
            found = verify_decided(
                self.decided, self.source, tokens, sequences, inputs.gen_len, eos
            )
        else:
            dtype = inputs.arch.spec.dtype
            found = verify(self._reference(), tokens, sequences, inputs.gen_len, eos, dtype)
        write_json(self.output.folder / VERIFICATION, found.to_dict())
        return found

    def _reference(self) -> Reference:
        """transformers where it can run the model, or else the plain model of this package."""
        inputs, folder = self.inputs, self.asked.checkpoint
        if folder is None or self.kind.change or self.asked.modifiers.told():
            change = partial(change_of, self.kind, inputs.policy, self.predictor)
            return plain_reference(self.source, change)
        return transformers_reference(folder, inputs.arch.spec.dtype)
