"""Amounts with units."""

import pytest

from moelab.amounts import parse_bytes, parse_rate
from schedules.errors import BadInput


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1B", 1),
        ("512B", 512),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1kib", 1024),
        ("500MB", 500_000_000),
        ("1.5 MB", 1_500_000),
        (" 16GiB ", 16 * 2**30),
        ("16gb", 16_000_000_000),
        (".5GiB", 2**29),
        ("2.TiB", 2**41),
        ("1048576TiB", 2**60),
    ],
)
def test_amounts(text, size_bytes):
    assert parse_bytes(text, "--gpu-memory") == size_bytes
    assert parse_rate(f"{text.strip()}/s", "--link-bandwidth") == size_bytes


NO_AMOUNTS = [
    "",
    "GiB",
    "many",
    "16",
    "16G",
    "16 Gi",
    "1e3GiB",
    "-1GiB",
    "+1GiB",
    "1,5GB",
    "0x10B",
    "1GiB2",
    "1 GiB x",
    "nan",
    "inf",
    "infGB",
    "1..5GB",
    "1/s",
    "16GiB/s",
    "٣GB",
    "1_0GB",
]


@pytest.mark.parametrize("text", NO_AMOUNTS)
def test_what_is_no_amount(text):
    with pytest.raises(BadInput) as error:
        parse_bytes(text, "--gpu-memory")
    assert str(error.value) == (
        f"--gpu-memory {text}: give bytes with a unit, such as 16GiB or 500MB"
    )


@pytest.mark.parametrize("text", ["", "fast", "2GB", "2/s", "2GB/sec", "-2GB/s", "2GB/s/s", "/s"])
def test_what_is_no_rate(text):
    with pytest.raises(BadInput) as error:
        parse_rate(text, "--link-bandwidth")
    assert str(error.value) == f"--link-bandwidth {text}: give bytes per second, such as 2.5GB/s"


@pytest.mark.parametrize("text", ["0B", "0GiB", "0.4B", "0.0TB", "1048577TiB", f"{'9' * 400}GB"])
def test_amounts_that_no_machine_has(text):
    with pytest.raises(BadInput) as error:
        parse_bytes(text, "--gpu-memory")
    assert str(error.value) == f"--gpu-memory {text}: it must be from 1 to 2^60 bytes"
    with pytest.raises(BadInput, match=r"it must be from 1 to 2\^60 bytes/s$"):
        parse_rate(f"{text}/s", "--link-bandwidth")
