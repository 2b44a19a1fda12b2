"""The judges of the lab can find guilty, and acquit."""

import socket

import pytest

from tests.lab.mesh import answers, count_echoes, when_lost
from tests.lab.traffic import Pair, Talk, Window


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


def stamped(answered: dict[int, float], *, sent: int) -> str:
    """Of `ping -D`; each answer took half a second."""
    replies = (
        f"[{at + 0.5:.6f}] 64 bytes from 10.1.2.3: icmp_seq={number} ttl=62 time=500 ms" for number, at in answered.items()
    )
    return "\n".join(replies) + f"\n\n--- 10.1.2.3 ping statistics ---\n{sent} packets transmitted\n"


@pytest.mark.parametrize(
    ("answered", "sent", "expected"),
    [
        ({1: 100.0, 2: 101.0}, 2, []),
        ({1: 100.0, 4: 103.0}, 4, [101.0, 102.0]),
        ({2: 100.0}, 2, [95.0]),
        ({1: 100.0, 2: 101.0}, 103, [101.0 + 99.0 / 102]),
    ],
)
def test_a_lost_echo_was_sent_between_its_neighbours(answered: dict[int, float], sent: int, expected: list[float]) -> None:
    assert when_lost(stamped(answered, sent=sent), title="a -> b", began=90.0, ended=200.0) == pytest.approx(expected)


def test_a_lost_echo_was_sent_before_the_next_of_which_ping_tells() -> None:
    """It may have paused before."""
    text = stamped({1: 100.0, 4: 103.5}, sent=4).replace(
        "[104.0", "[103.0] no answer yet for icmp_seq=2\n[103.3] no answer yet for icmp_seq=3\n[104.0"
    )
    assert when_lost(text, title="a -> b", began=90.0, ended=200.0) == pytest.approx([101.5, 103.0])


def test_numbers_of_echoes_that_begin_anew_go_on() -> None:
    assert list(answers(said([30000, 60000, 65535, 0, 2, 1], sent=65539)))[2:] == [65535, 65536, 65538, 65537]


def test_an_excuse_holds_for_its_pairs_and_its_time() -> None:
    window = Window(frozenset({Pair("ab")}), 10.0, 11.0)
    judged = [window.excuses(Pair(pair), at) for pair, at in (("ba", 10.5), ("ac", 10.5), ("ab", 9.0), ("ab", 11.1))]
    assert judged == [True, False, False, False]


@pytest.mark.parametrize("numbers", [(1,), (0, 2), (0, 1, 1), ()])
def test_a_connection_that_skips_repeats_or_ends_is_in_trouble(numbers: tuple[int, ...]) -> None:
    near, far = socket.socketpair()
    talk = Talk("a -> b", near, far)
    with near, far:
        for talk.said in numbers:
            talk.say()
        near.close()
        talk.listen()
    assert talk.trouble


def test_a_connection_on_which_all_arrives_in_order_is_not() -> None:
    near, far = socket.socketpair()
    talk = Talk("a -> b", near, far)
    with near, far:
        for _ in range(3):
            talk.say()
        talk.listen()
    assert (talk.trouble, talk.heard) == ("", 3)
