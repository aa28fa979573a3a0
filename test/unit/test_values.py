"""Values of conf.ini: the accepted syntax of a size, and its number of bytes."""

from __future__ import annotations

import pytest
from modelserve.config.values import bytes_of


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("0", 0),
        ("7 B", 7),
        ("512MiB", 512 * 2**20),
        ("512mib", 512 * 2**20),
        ("1.5 GB", 1_500_000_000),
        (" 2KB ", 2000),
        ("1024TiB", 2**50),
    ],
)
def test_a_size_is_a_number_of_bytes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", ".5GB", "1.GB", "512k", "512M", "1kbit", "1PB", "1 2", "٣MiB", "1\u212aiB"]
)
def test_another_text_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        bytes_of(text)
