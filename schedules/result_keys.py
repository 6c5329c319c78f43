"""The keys of a result, simulated or measured: reports take either."""

KEYS = (
    "schedule",
    "model",
    "hardware",
    "workload",
    "policy",
    "feasible",
    "throughput_tok_s",
    "prefill_s",
    "decode_s",
    "makespan_s",
    "ttft_s",
    "tpot_s",
    "utilization",
    "busy_s",
    "idle_s",
    "peak_memory_bytes",
    "capacity_bytes",
    "tasks",
    "moved_bytes_per_token",
    "exposed_transfer_s",
    "moe_block_ms",
    "facts",
    "lower_bound_s",
    "bound_ratio",
    "provenance",
)
"""In this order; docs/json.md defines them. A measured result has one key more, `MEASURED`."""

MEASURED = "measured"
"""What only a measurement knows: batches, tokens that were really generated, predicted memory."""
