"""Runs that fail: one clear error, no thread left, no memory held, nobody waits for ever."""

import gc
import weakref

import numpy as np
import pytest

from runtime.checkpoint import Checkpoint
from runtime.device import DeviceOptions
from runtime.operations import OPERATIONS
from runtime.session import Session
from schedules.batch.cgopipe import CGOPipe
from schedules.errors import Infeasible, MoelabError
from schedules.policy import make_policy
from tests.runtime.checkpoints import save_checkpoint
from tests.runtime.faults import GEN_LEN, PROMPTS, Fault, generate, lanes, within
from tests.runtime.runs import OPTIONS, Logits


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Four layers: more than any buffer of a schedule holds at once."""
    folder = tmp_path_factory.mktemp("model")
    return Checkpoint(save_checkpoint(folder, "mixtral", num_hidden_layers=4))


# -- a task that fails -----------------------------------------------------------------------------

EVERY_STREAM = [
    ("cgopipe", {}, "post_attention", "gpu"),
    ("cgopipe", {}, "cpu_attention", "cpu"),
    ("cgopipe", {}, "load_weights", "h2d"),
    ("cgopipe", {}, "offload_qkv", "d2h"),
    ("cgopipe", {}, "pin_weights", "pin"),
    ("cgopipe", {"A_g": 1}, "store_kv", "d2h"),
    ("flexgen", {}, "pin_kv", "host"),
    ("flexgen", {}, "compute_ffn", "gpu"),
    ("on-demand", {}, "gate", "gpu"),
    ("on-demand", {}, "load_expert", "h2d"),
    ("gpu-only", {}, "compute_layer", "gpu"),
]


@pytest.mark.parametrize(("name", "policy", "op", "stream"), EVERY_STREAM)
@pytest.mark.parametrize(("layer", "step"), [(1, 1), (3, 3)])
def test_an_error_in_any_stream_ends_the_run(
    monkeypatch, source, name, policy, op, stream, layer, step
):
    fault = Fault(op, layer, step, OSError(5, "Input/output error"))
    fault.install(monkeypatch)
    with pytest.raises(MoelabError) as error:
        generate(name, source, **policy)
    assert str(error.value) == (
        f"task '{op}' (layer {layer}, step {step}) failed: OSError: [Errno 5] Input/output error"
    )
    assert isinstance(error.value.__cause__, OSError)
    assert fault.seen == [stream]  # once: what came after it was skipped


@pytest.mark.parametrize("op", ["prefill_layer", "store_kv", "load_weights"])
def test_an_error_in_prefill_ends_the_run(monkeypatch, source, op):
    Fault(op, 2, 0, RuntimeError("no luck\nand more")).install(monkeypatch)
    with pytest.raises(MoelabError, match=r"'.*' \(layer 2, step 0\) failed: RuntimeError: no l"):
        generate("cgopipe", source)


@pytest.mark.parametrize("op", ["pre_attention", "cpu_attention", "pin_weights"])
def test_an_error_while_a_task_is_issued_ends_the_run(monkeypatch, source, op):
    Fault(op, 1, 2, KeyError("x"), issued=True).install(monkeypatch)
    with pytest.raises(MoelabError) as error:
        generate("cgopipe", source)
    assert str(error.value) == f"task '{op}' (layer 1, step 2) cannot run: KeyError: 'x'"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "failed: MemoryError"),
        (MoelabError("the workspace is too small"), "the workspace is too small"),
        (SystemExit(3), "failed: SystemExit: 3"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:5] reset by peer"), "another process of the"),
    ],
)
def test_every_kind_of_error_is_a_sentence(monkeypatch, source, error, said):
    Fault("cpu_attention", 0, 1, error).install(monkeypatch)
    with pytest.raises(MoelabError, match=said):
        generate("cgopipe", source)


def test_the_first_of_many_errors_is_reported(monkeypatch, source):
    for layer, op in enumerate(["pre_attention", "offload_qkv", "cpu_attention", "load_hidden"]):
        Fault(op, layer, 2, RuntimeError(op)).install(monkeypatch)
    with pytest.raises(MoelabError, match=r"task 'pre_attention' \(layer 0, step 2\) failed"):
        generate("cgopipe", source)


def test_an_operation_that_the_runtime_lacks(monkeypatch, source):
    monkeypatch.delitem(OPERATIONS, "cpu_attention")
    with pytest.raises(MoelabError, match="no operation 'cpu_attention', did you mean 'compute_a"):
        generate("cgopipe", source)


@pytest.mark.parametrize("position", [0, 2])
def test_a_sampler_that_fails(source, position):
    class Failing(Logits):
        def __call__(self, logits, requests, at):
            if at == position:
                raise ValueError("no token")
            return super().__call__(logits, requests, at)

    policy = make_policy({"N": 5, "mu": 2})
    with Session(CGOPipe, source, policy, PROMPTS, GEN_LEN, OPTIONS, Failing()) as session:

        def steps():
            session.prefill()
            session.decode_step()
            session.decode_step()

        with pytest.raises(MoelabError, match="failed: ValueError: no token"):
            within(steps)
    assert lanes() == []


# -- what is left ----------------------------------------------------------------------------------


def storages(session):
    """Weak references to all tensors that a session has allocated."""
    tensors = list(session.context.memory.storage.values())
    whole = {id(t._base): t._base for t in tensors if t._base is not None}
    return [weakref.ref(tensor) for tensor in (*tensors, *whole.values())]


@pytest.mark.parametrize("fails", [True, False])
def test_closing_frees_all_memory_and_threads(monkeypatch, source, fails):
    """At once, and not when the garbage collector comes round: the next batch needs the room."""
    if fails:
        Fault("post_attention", 2, 1, RuntimeError("boom")).install(monkeypatch)
    gc.collect()
    gc.disable()
    try:
        policy = make_policy({"N": 5, "mu": 2})
        session = Session(CGOPipe, source, policy, PROMPTS, GEN_LEN, OPTIONS, Logits())
        held = storages(session)
        assert all(reference() is not None for reference in held)
        kept = None  # as a notebook keeps the last error
        try:
            within(lambda: (session.prefill(), session.decode_step()))
        except MoelabError as error:
            kept = error
        assert (kept is not None) == fails
        assert lanes() != []
        session.close()
        session.close()  # a second time does nothing
        assert lanes() == []
        assert [reference() for reference in held if reference() is not None] == []
    finally:
        gc.enable()


def test_a_closed_session_says_so(source):
    session = Session(
        CGOPipe, source, make_policy({"N": 5, "mu": 2}), PROMPTS, 2, OPTIONS, Logits()
    )
    session.close()
    with pytest.raises(MoelabError, match="the session is closed"):
        session.prefill()


def test_what_was_measured_before_the_error_stays(monkeypatch, source):
    Fault("cpu_attention", 1, 2, RuntimeError("boom")).install(monkeypatch)
    policy = make_policy({"N": 5, "mu": 2})
    with Session(CGOPipe, source, policy, PROMPTS, GEN_LEN, OPTIONS, Logits()) as session:
        first, second = session.prefill(), session.decode_step()
        with pytest.raises(MoelabError, match="boom"):
            within(session.decode_step)
    assert {row[5] for row in session.tasks()} == {0, 1}  # steps
    assert len(session.step_s) == 2
    assert first.dtype == second.dtype == np.int64


def test_after_a_failure_no_step_runs(monkeypatch, source):
    Fault("cpu_attention", 1, 1, RuntimeError("boom")).install(monkeypatch)
    policy = make_policy({"N": 5, "mu": 2})
    with Session(CGOPipe, source, policy, PROMPTS, GEN_LEN, OPTIONS, Logits()) as session:
        session.prefill()
        for _ in range(2):
            with pytest.raises(
                MoelabError, match=r"\(layer 1, step 1\) failed: RuntimeError: boom"
            ):
                within(session.decode_step)


@pytest.mark.parametrize("how", ["small", "schedule"])
def test_a_session_that_cannot_open_leaves_nothing(source, how):
    class Broken(CGOPipe):
        def __init__(self, node):
            super().__init__(node)
            raise ZeroDivisionError("oh")

    kind = Broken if how == "schedule" else CGOPipe
    options = DeviceOptions("cpu", 1 << 19, 1 << 30) if how == "small" else OPTIONS
    said = {"small": "pool 'gpu' is too small: ", "schedule": "'cgopipe' cannot take its memory: Z"}
    expected = Infeasible if how == "small" else MoelabError
    with pytest.raises(expected, match=said[how]):
        Session(kind, source, make_policy({"N": 5, "mu": 2}), PROMPTS, 2, options, Logits())
    assert lanes() == []
