"""What a deploy shows while the workers fetch new content."""

from __future__ import annotations

from modelserve.store.distribute import describe_pending


def test_a_line_names_the_workers_that_fetch_and_counts_the_others() -> None:
    assert describe_pending(["w2", "w1"], 1, 3) == "1 of 3 workers have it; fetching: w1, w2"
    many = [f"w{number:02}" for number in range(50)]
    text = describe_pending(many[7:], 7, 50)
    assert text.startswith("7 of 50 workers have it; fetching: w07, w08")
    assert text.endswith("w14 and 35 more")
