"""Schedules that move experts: the weights of the experts travel when, or before, they are used."""

from schedules.expert.decoder_resident import DecoderResident
from schedules.expert.edgemoe import EdgeMoEOffloading
from schedules.expert.fiddler import Fiddler
from schedules.expert.hobbit import HOBBIT
from schedules.expert.klotski import Klotski
from schedules.expert.ktransformers import KTransformers
from schedules.expert.moe_gen import MoEGen
from schedules.expert.moe_infinity import MoEInfinityOffloading
from schedules.expert.moe_lens import MoELens
from schedules.expert.on_demand import OnDemand
from schedules.expert.pre_gated import PreGated
from schedules.expert.prefetch_all import PrefetchAll
from schedules.expert.read_me import ReadME
from schedules.expert.sida import SiDA
from schedules.expert.ultramem import UltraMem

BUILT_IN = (
    DecoderResident,
    EdgeMoEOffloading,
    Fiddler,
    HOBBIT,
    Klotski,
    KTransformers,
    MoEGen,
    MoEInfinityOffloading,
    MoELens,
    OnDemand,
    PrefetchAll,
    PreGated,
    ReadME,
    SiDA,
    UltraMem,
)
