"""Experts in 4 bits: filled when a session opens, copied as they lie, written out one at a time."""

import pytest
import torch

from runtime.checkpoint import Checkpoint
from runtime.packed_experts import bytes_of, parts_of, written_out
from runtime.packing import pack_rows, unpack_rows
from runtime.sampling import Greedy
from runtime.session import Session
from schedules.contents import Packed
from schedules.errors import MoelabError
from schedules.expert.hobbit import HOBBIT
from schedules.policy import make_policy
from tests.runtime.checkpoints import random_prompts, save_checkpoint
from tests.runtime.runs import OPTIONS, run

LAYER, EXPERT, GROUP = 2, 1, 16  # h = 64 and f = 96, or 48: pairs of 16, or of 8, divide them
POLICY = make_policy({"N": 1, "mu": 1})


@pytest.fixture(scope="module", params=["mixtral", "dbrx"])
def source(request, tmp_path_factory):
    layers = {"dbrx": {"n_layers": 3}}.get(request.param, {"num_hidden_layers": 3})
    return Checkpoint(save_checkpoint(tmp_path_factory.mktemp("model"), request.param, **layers))


@pytest.fixture
def session(source):
    with Session(HOBBIT, source, POLICY, random_prompts([3]), 2, OPTIONS, Greedy()) as made:
        yield made


def test_sizes_by_hand(source):
    """Rows of 64: 32 bytes and 4 scales; of 96: 48 bytes and 6 scales. DBRX turns `down` round."""
    model, span = source.architecture.spec, Packed(LAYER, 4, GROUP)
    turned = model.family == "dbrx"
    down = ("down", 96, 64, 40) if turned else ("down", 64, 96, 60)
    expected = [("gate", 96, 64, 40), ("up", 96, 64, 40), down]
    assert [tuple(part) for part in parts_of(model, span)] == expected
    assert bytes_of(model, span) == 11_520 == 3 * 64 * 96 * (4 / 8 + 2 / GROUP)


def test_the_host_holds_the_experts_of_a_layer_packed(source, session):
    """And a copy brings one of them, which is written out where the schedule has room for it."""
    context, buffers = session.context, session.issuer.buffers
    (home,) = [b for b in buffers if b.name == f"4-bit weights[{LAYER}]"]
    (room,) = [b for b in buffers if b.kind == "unpacked"]
    span = Packed(LAYER, 4, GROUP, EXPERT)
    write, weights = written_out(context, home, span._replace(expert=0), room)
    size = bytes_of(context.arch.spec, span)
    for expert in range(4):
        place = context.memory.view(home, (size,), torch.uint8, expert * size)
        matrices = [source.matrix(LAYER, name, expert) for name in ("gate", "up", "down")]
        packed = torch.cat([pack_rows(m, 4, GROUP).view(-1) for m in matrices])
        assert torch.equal(place, packed)
    write()
    for name, (piece,) in weights.matrices.items():
        matrix = source.matrix(LAYER, name, 0)
        expected = torch.empty_like(matrix)
        unpack_rows(pack_rows(matrix, 4, GROUP), 4, GROUP, expected)
        assert torch.equal(piece.tensor, expected)
        assert (piece.start, piece.stop) == (0, len(matrix))
        assert 0 < (expected - matrix).abs().max() <= matrix.abs().max() / 7


class Elsewhere(HOBBIT):
    """Takes packed experts from the home of another layer."""

    def make_room(self):
        super().make_room()
        first, *others = self.blocks
        self.packed_home = dict.fromkeys((first, *others), self.packed_home[first])

    def wanted(self, block, ids, weights):
        """All but first choices in 4 bits."""
        made, first = super().wanted(block, ids, weights), {*ids[:, 0].tolist()}
        named = {*ids.ravel().tolist()}
        return made._replace(high=sorted(first), low=sorted(named - first))


def test_a_copy_from_the_wrong_place_is_refused(source):
    with pytest.raises(MoelabError, match="which does not hold it"):
        run(Elsewhere, source, POLICY, random_prompts([3]), 2)
