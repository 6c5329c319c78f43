"""What a calibration and its held-out runs say, as plain values, by hand."""

from typing import Any


def value(key: str, number: float | bool, unit: str, low=None, high=None) -> dict[str, Any]:
    source = "Fitted to a<b operations"
    return {"key": key, "value": number, "low": low, "high": high, "unit": unit, "source": source}


def calibration(**changes: Any) -> dict[str, Any]:
    """Two fitted values of four, and something for each figure."""
    return {
        "name": "lab<1>",
        "description": "a machine",
        "warnings": ["The machine was unsteady & slow."],
        "values": [
            value("gpu.memory_bandwidth", 2e9, "B/s", 1.5e9, 2.5e9),
            value("gpu.overlaps", False, ""),
            value("links.h2d", 1e9, "B/s", 0.9e9),
            value("channels.cores", 1.77, "threads"),
        ],
        "fits": {"gpu": {"measurements": 2, "median_abs_error": 0.034, "overlaps": False}},
        "residuals": {
            "gpu": [
                {"op": op, "where": "run", "measured_s": s, "modelled_s": 2 * s}
                for op, s in (("attention", 1e-3), ("experts", 0.5))
            ],
            "links": [],
        },
        "copies": [
            {"link": link, "bytes": size, "measured_s": size / 1e9, "modelled_s": modelled}
            for link, modelled in (("h2d", 1e-3), ("d2h", None))
            for size in (1e6, 1e3)
        ],
        "pairs": [
            {"pair": "h2d+d2h", "role": "h2d", "alone_s": 1.0, "together_s": 2.0},
            {"pair": "h2d+d2h", "role": "d2h", "alone_s": 1.0, "together_s": 1.0},
        ],
        "threads": [
            {"what": "products", "threads": n, "per_second": speed, "unit": "flop/s"}
            for n, speed in ((1, 2e9), (2, 3e9))
        ],
        "steady": [{"probe": "copy", "turn": i, "at_s": 2.0 * i, "speed": 1.0} for i in range(2)],
        "provenance": {"date": "2026-01-02", "host": {"cores": 2, "load": None}},
        **changes,
    }


def ran(schedule: str, error: float, decode_error: float | None = 0.01) -> dict[str, Any]:
    return {
        "schedule": schedule,
        "policy": {"N": 32, "mu": 8},
        "prompt_len": 64.5,
        "gen_len": 12,
        "measured_s": 10.0,
        "simulated_s": 10.0 * (1 + error),
        "error": error,
        "prefill_error": -0.02,
        "decode_error": decode_error,
    }


def check() -> dict[str, Any]:
    """Two runs, one of which is far off."""
    return {
        "runs": [ran("cgopipe", 0.03), ran("on<demand", -0.2, None)],
        "median_abs_error": 0.115,
        "worst_abs_error": 0.2,
        "same_ranking": True,
        "noise_floor": 0.012,
    }
