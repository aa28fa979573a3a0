"""The load that a replica reports to the autoscaling: its requests, and its part of the gateway's queue for a while."""

from __future__ import annotations

from modelserve.replica.load import FRESH_S, Load
from modelserve.serve.contract import QUEUED_HEADER


def request(queued: str) -> dict[str, object]:
    return {"type": "http", "headers": [(b"host", b"x"), (QUEUED_HEADER.lower().encode(), queued.encode())]}


def test_the_queue_counts_until_no_request_tells_of_it() -> None:
    now = [0.0]
    load = Load(lambda: now[0])
    load.ongoing = 3
    load.note(request("9"))
    assert load.measure() == 3, "nobody had asked yet"
    load.note(request("9"))
    assert load.measure() == 12
    load.note(request("4"))
    assert load.measure() == 7
    now[0] += FRESH_S
    assert load.measure() == 3


def test_what_is_no_number_is_not_taken() -> None:
    load = Load()
    load.measure()
    load.note(request("many"))
    assert load.measure() == 0
