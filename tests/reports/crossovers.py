"""Made-up crossovers, as `moelab crossover --json` writes them."""

from itertools import groupby, pairwise


def made(speeds, grid=None):
    """Schedules `a` and `b` over the batch, from tokens/s of both by value; None: does not run."""
    points = [_point(value, pair, grid is None or value in grid) for value, pair in speeds.items()]
    groups = [
        list(found) for _, found in groupby(points, key=lambda p: (p["winner"], p["verdict"]))
    ]
    return {
        "schedules": ["a", "b"],
        "model": "m",
        "hardware": "box",
        "workload": "w",
        "over": "batch",
        "unit": "sequences",
        "own_value": None,
        "crossings": [
            {
                "last": low[-1]["value"],
                "first": high[0]["value"],
                "before": low[0]["winner"],
                "after": high[0]["winner"],
            }
            for low, high in pairwise(groups)
            if low[0]["winner"] != high[0]["winner"]
        ],
        "ranges": [_range(found) for found in groups],
        "points": points,
    }


def _range(points):
    results = points[0]["results"]
    return {
        "from": points[0]["value"],
        "to": points[-1]["value"],
        "winner": points[0]["winner"],
        "verdict": points[0]["verdict"],
        "reasons": {r["schedule"]: r["reason"] for r in results if not r["feasible"]},
    }


def _point(value, speeds, on_grid):
    results = [_result(name, speed) for name, speed in zip("ab", speeds, strict=True)]
    winner, verdict = _verdict(*speeds)
    words = {"winner": winner, "verdict": verdict}
    return {"value": value, **words, "results": results, "on_grid": on_grid}


def _result(name, speed):
    if speed is None:
        return {"schedule": name, "feasible": False, "reason": "too large"}
    return {"schedule": name, "feasible": True, "throughput_tok_s": speed, "policy": {"N": 1}}


def _verdict(a, b):
    if a is None and b is None:
        return None, "none"
    if a is None or b is None:
        return ("b" if a is None else "a"), "alone"
    if a == b:
        return None, "equal"
    return ("a" if a > b else "b"), "faster"
