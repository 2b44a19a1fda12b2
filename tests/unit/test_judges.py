"""The judges of the lab can find guilty, and acquit."""

import pytest

from tests.lab.mesh import count_echoes


def said(answered: list[int], *, sent: int) -> str:
    replies = "\n".join(f"64 bytes from 10.1.2.3: icmp_seq={number} ttl=62 time=0.5 ms" for number in answered)
    return f"{replies}\n\n--- 10.1.2.3 ping statistics ---\n{sent} packets transmitted, {len(answered)} received\n"


@pytest.mark.parametrize(
    ("answered", "sent", "expected"),
    [
        ([1, 2, 3], 3, (3, [])),
        ([1, 3], 3, (3, [2])),
        ([2, 3], 3, (3, [1])),
        ([1, 2], 40, (2, [])),
        ([1, 2], 103, (3, [3])),
        ([], 150, (50, list(range(1, 51)))),
        ([], 0, (0, [])),
    ],
)
def test_lost_is_what_was_not_answered_while_there_was_time(answered: list[int], sent: int, expected: object) -> None:
    assert count_echoes(said(answered, sent=sent), title="a -> b") == expected


def test_a_ping_that_says_nothing_is_not_believed() -> None:
    with pytest.raises(AssertionError, match="a -> b: ping said"):
        count_echoes("ping: unknown host", title="a -> b")
