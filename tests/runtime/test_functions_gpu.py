"""The functions on a CUDA device: right, without hidden waits, within their memory."""

import pytest
import torch

from runtime.functions import decode_attention, grouped
from runtime.functions.grouped import GROUPED_BYTES
from runtime.functions.linear import BLOCK_BYTES
from runtime.random_weights import RandomWeights
from runtime.workspace import Workspace
from schedules.kernels import Kernels
from schedules.layer_sizes import LayerSizes
from schedules.model import ModelSpec
from tests.runtime.checkpoints import FAMILIES
from tests.runtime.layer_runs import hidden_states, one_rank, run_layer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ERRORS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # relative, of one layer's output


def model(family, dtype="float32"):
    config = {"model_type": family, "torch_dtype": dtype} | FAMILIES[family]
    return RandomWeights(ModelSpec.from_hf_config(config), std=0.2)


def dtypes():
    """What the device computes: bfloat16 from Ampere on."""
    if not torch.cuda.is_available():
        return ["float32"]
    ampere = torch.cuda.get_device_capability() >= (8, 0)
    return ["float32", "float16"] + (["bfloat16"] if ampere else [])


@pytest.fixture
def waits_are_errors():
    """PyTorch raises where an operation waits for the device behind the caller's back."""
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("dtype", dtypes())
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_is_that_of_the_cpu(family, dtype):
    """The CPU computes in float32 with the weights of the dtype."""
    source = model(family, dtype)
    arch = source.architecture
    exact = arch.with_dtype("float32")
    for layer in range(arch.spec.n_layers):
        hidden = hidden_states(arch)
        [(_, w)] = one_rank(source, layer)
        wide = type(w)(
            {
                n: tuple(p._replace(tensor=p.tensor.float()) for p in ps)
                for n, ps in w.matrices.items()
            },
            {n: v.float() for n, v in w.vectors.items()},
        )
        wanted = run_layer([(exact, wide)], hidden.float())
        got = run_layer(one_rank(source, layer, "cuda"), hidden.cuda()).cpu().float()
        error = float((got - wanted).norm() / wanted.norm())
        assert error < ERRORS[dtype]


@pytest.mark.parametrize("dtype", dtypes())
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_waits_for_the_device_unasked(family, dtype, request):
    source = model(family, dtype)
    layer = source.architecture.spec.n_layers - 2  # with experts, where the family has any
    ranks = one_rank(source, layer, "cuda")
    hidden = hidden_states(source.architecture, device="cuda")
    ws = Workspace.of_size(2**22, "cuda")
    first = run_layer(ranks, hidden, ws)  # tables of frequencies are copied to the device once
    request.getfixturevalue("waits_are_errors")
    second = run_layer(ranks, hidden, ws)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)  # and the same bits


@pytest.mark.parametrize("dtype", dtypes())
def test_memory_beside_the_workspace_is_bounded(dtype):
    sizes = {"hidden_size": 1024, "intermediate_size": 3584, "num_attention_heads": 8}
    config = {"model_type": "mixtral", "torch_dtype": dtype} | FAMILIES["mixtral"] | sizes
    source = RandomWeights(ModelSpec.from_hf_config(config))
    arch = source.architecture
    [(_, w)] = ranks = one_rank(source, 0, "cuda")
    hidden = hidden_states(arch, device="cuda")
    layer = arch.spec.decoder_layers[0]
    need = LayerSizes(arch.spec, Kernels(experts="loop")).workspace_bytes(layer, len(hidden), 0)
    ws = Workspace.of_size(int(need) + 2**16, "cuda")
    run_layer(ranks, hidden, ws)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run_layer(ranks, hidden, ws)
    own = 8 * hidden.nbytes + 4 * len(hidden) * arch.qkv_size * 4  # what run_layer itself makes
    bound = max(BLOCK_BYTES, GROUPED_BYTES if grouped.stacks(arch, w, hidden) else 0)
    assert torch.cuda.max_memory_allocated() - before < own + 2 * bound


@pytest.mark.parametrize("dtype", dtypes())
@pytest.mark.parametrize("contexts", [[9] * 5, [3, 1, 8, 8, 2]])
def test_decode_attention_is_that_of_the_cpu(contexts, dtype):
    kind = getattr(torch, dtype)
    offsets = [10 * s for s in range(5)]
    q, keys, values = torch.randn(5, 8, 64), torch.randn(50, 2, 64), torch.randn(50, 2, 64)
    q, keys, values = (x.to(kind) for x in (q, keys, values))
    wanted = torch.empty(5, 8, 64)
    decode_attention(q.float(), keys.float(), values.float(), offsets, contexts, wanted)
    got = torch.empty(5, 8, 64, dtype=kind, device="cuda")
    decode_attention(q.cuda(), keys.cuda(), values.cuda(), offsets, contexts, got)
    error = float((got.cpu().float() - wanted).norm() / wanted.norm())
    assert error < ERRORS[dtype]


def test_hopper_has_a_grouped_gemm():
    """If this fails, PyTorch's kernel is gone or wrong, and experts run one by one."""
    device = torch.device("cuda", 0)
    hopper = torch.cuda.get_device_capability(device) >= (9, 0)
    assert grouped.has_grouped_gemm(torch.bfloat16, device) == hopper
    assert not grouped.has_grouped_gemm(torch.float16, device)
