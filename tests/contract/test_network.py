"""Links, addresses, routes and paths, listed once and followed by events, are after every change as a new list has them."""

import asyncio
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

import pytest

from tests.builders import ips, nets
from tests.contract.tables import LINK
from tests.lab.namespaces import Place
from tests.lab.wait import eventually
from wigglenet_operator.kernel import network as network_module
from wigglenet_operator.kernel.link import FoundLink, dump_links
from wigglenet_operator.kernel.monitor import watch
from wigglenet_operator.kernel.netlink import Message
from wigglenet_operator.kernel.network import HOST, NodeNetwork
from wigglenet_operator.kernel.routes import ADD, DELETE, UNICAST, UNREACHABLE, write_routes
from wigglenet_operator.model.desired import RouteKey

PEERS = frozenset(ips("192.0.2.2 192.0.2.99 198.18.0.7 203.0.113.5 10.1.0.9 2001:db8::2 2001:db8:9::1"))
"""Addresses that a Node could have."""


class Followed:
    """A network whose events are followed, by a loop that runs when asked."""

    def __init__(self) -> None:
        self.network = NodeNetwork(LINK)
        self.stale: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(watch(self._follow))
        self.catch_up()
        answers(self.network)  # fills what is to be followed

    def _follow(self, events: Sequence[Message] | None) -> None:
        if events is None:
            self.network.forget()
            return
        for event in events:
            self.stale |= self.network.follow(event)

    def catch_up(self) -> None:
        """Take in the events that there are."""
        for _ in range(3):
            self._loop.run_until_complete(asyncio.sleep(0))

    def close(self) -> None:
        self._task.cancel()
        self._loop.run_until_complete(asyncio.gather(self._task, return_exceptions=True))
        self._loop.close()


@contextmanager
def followed(place: Place) -> Iterator[Followed]:
    with place.network():
        made = Followed()
        try:
            yield made
        finally:
            made.close()


def answers(network: NodeNetwork) -> tuple[object, ...]:
    """All that it knows."""
    return (
        network.foreign_routes(),
        network.advertised(),
        {name: sorted(of, key=str) for name, of in network.global_addresses(("eth0", "eth1", "veth3")).items()},
        network.local_addresses(),
        network.path_mtus(PEERS),
    )


@pytest.fixture
def underlay(place: Place) -> Place:
    """A link to other nodes, and one more."""
    place.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
    place.batch("link add eth0 type veth peer name far0", "link add eth1 type veth peer name far1")
    place.batch(*(f"link set {link} up" for link in ("lo", "eth0", "far0", "eth1", "far1")))
    place.batch("addr add 192.0.2.1/24 dev eth0", "addr add 2001:db8::1/64 dev eth0 nodad")
    wait_up(place, "eth0", "eth1", "far0", "far1")

    def local() -> bool:
        shown = place.run("ip", "-6", "addr")
        return shown.count("inet6 fe80:") == 4 and "tentative" not in shown

    eventually(local, what="each link has its link-local address")
    return place


def wait_up(place: Place, *links: str) -> None:
    """Return when these links are in operation: the kernel tells of that later, from a queue (net/core/link_watch.c)."""
    wanted = set(links)

    def up() -> bool:
        return wanted <= {link["ifname"] for link in json.loads(place.run("ip", "-json", "link")) if link["operstate"] == "UP"}

    eventually(up, what=f"{', '.join(links)} are up")


STEPS = (
    "link set eth0 mtu 1400",
    "link set eth0 mtu 9000",
    "route add 198.18.0.0/24 via 192.0.2.254 mtu 1300",
    "route replace 198.18.0.0/24 via 192.0.2.254 mtu 1350",
    "route del 198.18.0.0/24",
    "route add default via 192.0.2.254",
    "route del default",
    "-6 route add default via 2001:db8::ff",
    "-6 route add 2001:db8:9::/48 via 2001:db8::fe metric 5",
    "-6 route del 2001:db8:9::/48",
    "addr add 10.0.0.1/24 dev eth1",
    "addr del 10.0.0.1/24 dev eth1",
    "route add 10.1.0.9/32 dev eth1 metric 7",
    "route add 10.1.0.9/32 dev eth0 metric 8",
    "link set eth1 down",
    "link set eth1 up",
    "link add veth3 type veth peer name p3",
    "link set veth3 up",
    "addr add 10.1.0.1/32 dev veth3",
    "route add 10.1.0.3/32 dev veth3",
    "-6 route add fd00:1::3/128 dev veth3",
    "link del veth3",
    "addr del 192.0.2.1/24 dev eth0",
    "addr add 192.0.2.1/24 dev eth0",
    "link set eth1 name eth7",
    "link set eth7 name eth1",
    "route add unreachable 10.7.0.0/16",
    "route append 10.9.0.0/24 dev eth0",
    "route append 10.9.0.0/24 dev eth1",
    "route del 10.9.0.0/24",
    f"link add {LINK} type veth peer name p9",
    f"link set {LINK} up",
    f"route add 10.8.0.0/24 dev {LINK}",
    f"link del {LINK}",
)


@pytest.mark.parametrize("seed", range(6))
def test_what_events_say_is_what_a_new_list_says(underlay: Place, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a test that can be repeated
    steps = list(STEPS) if seed == 0 else [random.choice(STEPS) for _ in range(60)]
    with followed(underlay) as one:
        for step in steps:
            subprocess.run(("ip", *step.split()), check=False, stderr=subprocess.DEVNULL)

            def same() -> bool:
                one.catch_up()
                return answers(one.network) == answers(NodeNetwork(LINK))

            eventually(same, what=f"after {step}: {answers(one.network)}\nis {answers(NodeNetwork(LINK))}", seconds=5)


@pytest.mark.parametrize(
    ("steps", "stale"),
    [
        (["link add veth3 type veth peer name veth4", "link set veth3 up"], set()),
        (["addr add 10.9.0.1/32 dev veth2"], set()),
        (["route add 10.9.0.3/32 dev veth2"], {HOST}),
        (["link del veth2"], set()),
        (["route add unreachable 10.7.0.0/16"], {"closed"}),
        ([f"route add 10.8.0.0/24 dev {LINK}"], {"routes"}),
        ([f"link set {LINK} mtu 1300"], {"device", "link", "addresses", "peers", "routes", "sysctls", HOST}),
        ([f"addr add 10.9.0.1/32 dev {LINK}"], {"addresses", "routes", HOST}),
        (["route add 10.9.0.0/24 dev eth1", "route replace 10.9.0.0/24 dev eth0"], {HOST, "routes", "closed"}),
        (["link set eth0 mtu 1300"], {HOST}),
        (["link set eth0 txqueuelen 77"], set()),
    ],
)
def test_an_event_concerns_few_tables(underlay: Place, steps: list[str], stale: set[str]) -> None:
    underlay.batch("link add veth2 type veth peer name veth1", f"link add {LINK} type veth peer name p9")
    links = ("veth1", "veth2", "p9", LINK)
    underlay.batch(*(f"link set {link} addrgenmode none" for link in links), *(f"link set {link} up" for link in links))
    wait_up(underlay, *links)
    with followed(underlay) as one:
        one.stale.clear()
        for step in steps:
            subprocess.run(("ip", *step.split()), check=True)
        one.catch_up()

        assert one.stale == stale


def test_our_own_writes_are_no_events(underlay: Place) -> None:
    underlay.batch(f"link add {LINK} type veth peer name p9", f"link set {LINK} up", "link set p9 up")
    with followed(underlay) as one:
        one.stale.clear()
        own = next(link.number for link in dump_links() if link.name == LINK)
        for command in (ADD, DELETE):
            for kind, oif in ((UNREACHABLE, 0), (UNICAST, own)):
                keys = [RouteKey(to=network, metric=7 + kind) for network in nets("10.5.0.0/24 fd00:5::/64")]
                write_routes([(command, key) for key in keys], kind=kind, oif=oif)
            one.catch_up()

        assert one.stale == set()
        underlay.batch("route add unreachable 10.5.0.0/24")
        one.catch_up()
        assert one.stale == {"closed"}


def test_without_an_event_nothing_is_listed_anew(underlay: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with followed(underlay) as one:
        before = answers(one.network)
        for name in ("dump_links", "dump_addresses", "dump_routes", "look_up_routes"):
            monkeypatch.setattr(network_module, name, None)
        subprocess.run(("ip", "route", "add", "10.1.0.9/32", "dev", "eth1"), check=True)
        assert answers(one.network) == before, "nothing moved, as far as events say"


def test_a_link_whose_mtu_changes_during_a_list_is_followed(underlay: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with followed(underlay) as one:
        one.network.forget()

        def overtaken() -> list[FoundLink]:
            monkeypatch.undo()
            listed = dump_links()
            underlay.batch("link set eth0 mtu 1400")
            return listed

        monkeypatch.setattr(network_module, "dump_links", overtaken)
        one.network.path_mtus(ips("192.0.2.2"))
        one.catch_up()

        assert one.network.path_mtus(ips("192.0.2.2"))[0] == {ips("192.0.2.2")[0]: 1400}


def test_a_resync_finds_what_no_event_told_of(underlay: Place) -> None:
    with underlay.network():
        network = NodeNetwork(LINK)
        answers(network)
        underlay.batch("link set eth0 mtu 1400", "addr add 10.0.0.1/24 dev eth1")
        network.refresh()

        assert answers(network) == answers(NodeNetwork(LINK))


def test_an_address_of_a_link_that_was_not_listed_yet_is_passed_over(underlay: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "dump_links", lambda: [FoundLink(number=1, name="lo", up=True, mtus=(65536, 65536))])
    with underlay.network():
        assert NodeNetwork(LINK).path_mtus(ips("192.0.2.1")) == ({}, None)


def test_without_an_own_address_the_default_routes_link_tells_the_underlay(underlay: Place) -> None:
    underlay.batch("link set eth0 mtu 1450", "route add default via 192.0.2.254")
    with underlay.network():
        assert NodeNetwork(LINK).path_mtus(ips("203.0.113.1")) == ({ips("203.0.113.1")[0]: 1450}, 1450)


def test_links_that_come_and_go_do_not_disturb_a_look_at_the_paths(underlay: Place) -> None:
    """As pods do; the kernel's lists of links and of addresses are not of the same instant."""
    churn = "while :; do ip link add e0 type veth peer name e1; ip addr add 10.9.0.1/32 dev e0; ip link del e0; done"
    underlay.popen("sh", "-c", churn, log="/run/churn.log")
    underlay.batch("link set eth0 mtu 1450", "route add 198.18.0.0/24 dev eth0 mtu 1400")
    network = NodeNetwork(LINK)
    with underlay.network():
        for _ in range(150):
            network.forget()
            assert network.path_mtus(ips("192.0.2.1 192.0.2.2 198.18.0.1 203.0.113.1")) == (
                {ips("192.0.2.2")[0]: 1450, ips("198.18.0.1")[0]: 1400},
                1450,
            )


def test_all_addresses_of_a_link_are_found_but_those_that_pass(underlay: Place) -> None:
    underlay.batch("addr add 192.0.2.2/24 dev eth0", "addr add 169.254.9.9/16 scope link dev eth0")
    underlay.batch("addr add 2001:db8::2/64 dev eth0 nodad preferred_lft 0")
    with underlay.network():
        found = NodeNetwork(LINK).global_addresses(("eth0", "eth7"))
    assert {name: {*some} for name, some in found.items()} == {"eth0": {*ips("192.0.2.1 192.0.2.2 2001:db8::1")}}


def test_of_ipv6_a_link_carries_what_was_advertised(underlay: Place) -> None:
    underlay.batch("link set eth0 mtu 1450")
    underlay.run("sysctl", "-qw", "net.ipv6.conf.eth0.mtu=1400")  # as the kernel does when it receives an advertisement
    four, six = ips("192.0.2.2 2001:db8::2")
    with underlay.network():
        assert NodeNetwork(LINK).path_mtus((four, six)) == ({four: 1450, six: 1400}, None)


def test_others_routes_are_listed_with_their_links_and_ours_and_the_kernels_are_not(underlay: Place) -> None:
    underlay.batch(f"link add {LINK} type veth peer name p9", f"link set {LINK} up")
    underlay.batch("route add 10.2.0.0/24 dev eth0 metric 7", f"route add 10.3.0.0/24 dev {LINK}")
    underlay.batch("route add unreachable 10.4.0.0/24")
    with underlay.network():
        found = NodeNetwork(LINK).foreign_routes()
    assert [(str(r.to), r.metric, r.link) for r in found if r.to.version == 4] == [("10.2.0.0/24", 7, "eth0")]
