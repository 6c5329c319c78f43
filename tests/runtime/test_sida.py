"""SiDA changes the function: its tokens are those of a plain model changed alike."""

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from runtime.changes_sida import Predicted
from runtime.checkpoint import Checkpoint
from runtime.device import DeviceOptions
from runtime.plain import greedy, plain_generate, plain_logits
from runtime.plain_encoder_decoder import forced_logits, generate
from runtime.predictor_files import random_predictor
from runtime.session import Session
from schedules.errors import BadInput, Infeasible, MoelabError
from schedules.expert.sida import SiDA
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from tests.runtime.checkpoints import random_prompts, save_checkpoint, save_switch
from tests.runtime.runs import policies, run

MOE = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "dbrx")  # qwen2_moe: with a shared expert
SWITCH = {
    "switch": {},
    "switch, not tied": {
        "tie_word_embeddings": False,
        "expert_capacity": 2,  # which the predictor's choices do not heed
        "num_layers": 2,
        "num_decoder_layers": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 2,
    },
}


@pytest.fixture(scope="module", params=[*MOE, *SWITCH])
def source(request, tmp_path_factory):
    """A tiny checkpoint of each family."""
    folder = tmp_path_factory.mktemp("model")
    if request.param in SWITCH:
        return Checkpoint(save_switch(folder, **SWITCH[request.param]))
    return Checkpoint(save_checkpoint(folder, request.param))


@pytest.fixture(scope="module")
def predictor(source):
    return random_predictor(source.architecture.spec, seed=1)


def plain_tokens(source, prompts, gen_len, change):
    make = plain_generate if source.architecture.encoder_decoder is None else generate
    return make(source, prompts, gen_len, change=change)


def logits_of(source, prompt, tokens, change):
    """Before each of the tokens."""
    if source.architecture.encoder_decoder is not None:
        return forced_logits(source, prompt, tokens[:-1], change)
    return plain_logits(source, [*prompt, *tokens[:-1]], change)[len(prompt) - 1 :]


@settings(max_examples=8)
@given(data=st.data())
def test_tokens_and_logits_of_the_changed_model(source, predictor, data):
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=5))
    gen_len = data.draw(st.integers(1, 4))
    policy = data.draw(policies("sida", len(lengths)))
    prompts = random_prompts(lengths, seed=sum(lengths))
    found = run("sida", source, policy, prompts, gen_len, predictor=predictor)
    assert found.tokens == plain_tokens(source, prompts, gen_len, Predicted(predictor))
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = logits_of(source, prompt, tokens, Predicted(predictor))
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_it_is_another_function(source, predictor):
    """Or the test above would show nothing; and another predictor makes yet another."""
    (prompt,) = random_prompts([12])
    changes = [None, Predicted(predictor), Predicted(random_predictor(source.architecture.spec, 2))]
    found = [logits_of(source, prompt, [5, 7], change) for change in changes]
    assert not any(torch.allclose(found[i], found[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_the_routing_is_the_predictor_s(source, predictor):
    """Choices differ between tokens, and the log has a row for every layer, step and token."""
    spec, encoder = source.architecture.spec, source.architecture.encoder_decoder
    prompts = random_prompts([5, 2, 9])
    policy = make_policy({"N": 3, "mu": 2})
    frame = run("sida", source, policy, prompts, 3, predictor=predictor).routing
    decoder = sum(layer.is_moe for layer in spec.decoder_layers)
    first = sum(layer.is_moe for layer in spec.encoder_layers) if encoder else decoder
    assert len(frame) == 16 * first + (3 if encoder else 2) * 3 * decoder
    assert all(len(rows["expert_0"].unique()) > 1 for _, rows in frame.groupby("layer"))


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
def test_half_precision(tmp_path, dtype, relative):
    """As the plain model in the same precision, which the hash table has too: ten or so roundings
    of 2^-11 or 2^-8. Prompts are long enough for a table that fills its memory."""
    source = Checkpoint(save_checkpoint(tmp_path, "mixtral", dtype=dtype))
    chosen = random_predictor(source.architecture.spec, seed=1)
    prompts, policy = random_prompts([50, 77, 64, 33]), make_policy({"N": 4, "mu": 2})
    found = run("sida", source, policy, prompts, 4, predictor=chosen)
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = logits_of(source, prompt, tokens, Predicted(chosen)).float()
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= relative * expected.abs().max()


@settings(max_examples=6)
@given(data=st.data())
def test_memory_that_is_there_at_the_beginning_lasts(source, predictor, data):
    """Experts fill what is left, in places that are made as they are needed."""
    policy = make_policy({"N": 3, "mu": 2, "per_layer": data.draw(st.booleans())})
    options = DeviceOptions("cpu", data.draw(st.integers(600_000, 2_500_000)), 1 << 30)
    prompts, kind = random_prompts([5, 12, 9]), find_schedule("sida")
    try:
        session = Session(kind, source, policy, prompts, 3, options, greedy, predictor=predictor)
    except Infeasible:
        return
    event("runs")
    with session:
        tokens = [session.prefill(), session.decode_step(), session.decode_step()]
    expected = plain_tokens(source, prompts, 3, Predicted(predictor))
    assert torch.tensor([list(map(int, step)) for step in tokens]).T.tolist() == expected


# -- what is refused -------------------------------------------------------------------------------


def test_a_predictor_is_needed_and_only_there(source, predictor):
    policy, prompts = make_policy({"N": 1, "mu": 1}), random_prompts([3])
    with pytest.raises(BadInput, match="'sida' needs a trained predictor: give --predictor FILE"):
        run("sida", source, policy, prompts, 1, predictor=None)
    with pytest.raises(BadInput, match="'gpu-only' has no use for a predictor"):
        run("gpu-only", source, policy, prompts, 1, predictor=predictor)


class Forgets(SiDA):
    """Leaves out one of the predictor's tasks in the second decode step."""

    forgotten = ""

    def run_batches(self, run_layer):
        task, node = self.node.issuer.task, self.node

        def issue(op, *arguments):
            if (op, node.step) != (self.forgotten, 2):
                return task(op, *arguments)
            return None

        node.issuer.task = issue
        super().run_batches(run_layer)
        node.issuer.task = task

    def hash_table(self, j):
        if self.forgotten == "predict_experts" and self.node.step == 2:
            self.predict(j)
            self.heads.pop(j)
            return {s: [0] * s.n_experts for s in self.node.layers if s.is_moe}
        return super().hash_table(j)


@pytest.mark.parametrize(
    ("op", "complaint"),
    [
        ("predict", "the predictor has not read the tokens of micro-batch 0, step 2"),
        ("predict_experts", "the hash table lacks . layers: the predictor did not name them"),
        ("load_choices", "the hash table was not brought to the GPU of micro-batch 0, step 2"),
    ],
)
def test_a_schedule_that_forgets_is_refused(source, predictor, op, complaint):
    policy = make_policy({"N": 1, "mu": 1})
    kind = type("Forgetful", (Forgets,), {"forgotten": op})
    with pytest.raises(MoelabError, match=complaint):
        run(kind, source, policy, random_prompts([3]), 4, predictor=predictor)
