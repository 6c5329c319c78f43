"""A made-up published figure, and others that differ from it."""

from sim.published import PublishedRow

RUN = PublishedRow(
    id="run",
    source="paper, table 1",
    metric="throughput_tok_s",
    value=1.0,
    schedule="cgopipe",
    model="mixtral-8x7b",
    hardware="gcp-t4-24c",
    workload="w",
    prompt_len=100,
    gen_len=3,
    padded=True,
    batch_size=8,
    micro_batch=2,
)


def row(base: PublishedRow = RUN, **changes) -> PublishedRow:
    """A figure with other values, each checked again."""
    return PublishedRow.model_validate(base.model_dump() | changes)
