"""Time is UTC, whatever the host's time zone is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from modelserve.util import clock


@pytest.fixture
def far_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_time_zone")
def test_a_time_that_is_written_is_read_again() -> None:
    assert clock.seconds(clock.utc(1795780800)) == 1795780800
    assert clock.seconds("yesterday") == 0


@pytest.mark.usefixtures("far_time_zone")
def test_a_time_is_utc() -> None:
    shown = datetime.strptime(clock.utc_now(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(shown - datetime.now(UTC)) < timedelta(seconds=5)
    assert time.localtime().tm_gmtoff == 9 * 3600
