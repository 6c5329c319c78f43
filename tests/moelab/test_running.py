"""What `moelab run` makes of the words of its command line."""

import os

import pytest

from moelab import running
from schedules.errors import BadInput


def test_threads(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert running.parse_threads(None) == (0, 0)
    assert running.parse_threads("1,8") == (1, 8)
    assert running.parse_threads(" 2 , 3 ") == (2, 3)
    with pytest.raises(BadInput, match="each must be from 1 to 8, the cores of the machine"):
        running.parse_threads("9,1")
    for text in ("", "1", "1,2,3", "a,b", "1.5,2", "-1,2", "²,1"):
        with pytest.raises(BadInput, match="give two whole numbers, such as 1,1"):
            running.parse_threads(text)


def test_the_host_memory_is_most_of_the_machines(monkeypatch, tmp_path):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000_000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(running, "LIMITS", (str(limit),))
    assert running.host_memory_bytes() == int(0.9 * 4_096_000_000)
    for text, there in {"max\n": 4_096_000_000, "2000000000\n": 2_000_000_000}.items():
        limit.write_text(text)  # of a container
        assert running.host_memory_bytes() == int(0.9 * there)


@pytest.mark.parametrize(
    ("batch", "micro_batch", "items", "expected"),
    [
        (None, None, [], (None, None, {})),
        (8, None, [], (8, None, {})),
        (None, 2, [], (None, 2, {})),
        (None, None, ["N=8", "mu=4"], (8, 4, {})),
        (None, None, ["batch_size=8.0", "micro_batch=4"], (8, 4, {})),
        (8, 4, ["r_w=0.1", "attention_on_gpu=1"], (8, 4, {"r_w": "0.1", "A_g": "1"})),
    ],
)
def test_policy_values(batch, micro_batch, items, expected):
    assert running.policy_values(batch, micro_batch, items) == expected


def test_device_options():
    found = running.device_options("cpu", "1GiB", "2GB", "3MB/s", "1,1")
    assert (found.device, found.gpu_memory_bytes, found.host_memory_bytes) == (
        "cpu",
        2**30,
        2_000_000_000,
    )
    assert (found.link_bytes_per_s, found.threads) == (3e6, (1, 1))
    found = running.device_options("cuda", "1GiB", None, None, None)
    assert found.device == "cuda"
    assert found.host_memory_bytes == running.host_memory_bytes()
    assert found.link_bytes_per_s is None
