"""WireGuard to its last corner, on the implementation that was chosen (`--wireguard`)."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import key, nets
from tests.contract.tables import LINK, PRIVATE, Bench, Table, brought_to, peer, real, wireguard_link
from tests.lab.namespaces import Place
from wigglenet_operator.errors import KernelError, MissingLink
from wigglenet_operator.kernel import netlink, wg_netlink
from wigglenet_operator.kernel.keys import generate
from wigglenet_operator.kernel.rtnl import LinkTable, Rtnl
from wigglenet_operator.kernel.wg_uapi import UapiDevice
from wigglenet_operator.kernel.wireguard import DeviceTable, PeerTable
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.desired import Device, Endpoint, Link, Peer
from wigglenet_operator.model.facts import PublicKey, WireGuardKind

DEVICE = {LINK: Device(public_key=PRIVATE.public, port=24601)}
kernel = pytest.mark.kernel_wireguard
userspace = pytest.mark.userspace_wireguard


def many(peers: int, *, networks: int = 2) -> dict[PublicKey, Peer]:
    """Distinct peers, each with that many pairs of an IPv4 and an IPv6 network."""

    def allowed(number: int) -> str:
        first = number * networks
        return " ".join(f"10.{i >> 8}.{i & 255}.0/24 fd00:{i:x}::/64" for i in range(first, first + networks))

    return {key(f"n{i}"): peer(i % 1000, allowed(i), address=f"192.0.2.{i % 250 + 1}") for i in range(peers)}


def shown(place: Place) -> dict[str, list[str]]:
    """The peers as `wg` tells them: the fields of `wg show dump` by public key."""
    lines = place.run("wg", "show", LINK, "dump").splitlines()[1:]
    return {fields[0]: fields[1:] for fields in (line.split("\t") for line in lines)}


def test_an_allowed_ip_that_is_given_to_another_peer_leaves_the_first(bench: Callable[[str], Bench]) -> None:
    async def move(table: Table) -> None:
        await brought_to(table, {key("b"): peer(1, "10.2.0.0/24 10.3.0.0/24")})
        await table.apply(diff({}, {key("c"): peer(2, "10.3.0.0/24")}))
        after = await table.observe()
        assert after[key("b")].allowed_ips == nets("10.2.0.0/24")
        assert after[key("c")].allowed_ips == nets("10.3.0.0/24")

    bench("peers").run(move)


@pytest.mark.parametrize(("peers", "networks"), [(1000, 2), (3, 1500), (1, 5000)])
def test_any_number_of_peers_and_networks_is_written_and_read(peers: int, networks: int, wireguard: Place) -> None:
    """More peers than a message holds, peers that span messages, dumps of many messages."""
    wanted = many(peers, networks=networks) if networks < 5000 else {key("b"): peer(1, ALL_OF_IT)}

    async def fill(table: Table) -> None:
        for state in (wanted, {}, wanted):
            await brought_to(table, state)
            assert await table.observe() == state
        assert not diff(await table.observe(), wanted)

    Bench(wireguard, real("peers", wireguard)).run(fill)
    assert {k: len(fields[2].split(",")) for k, fields in shown(wireguard).items()} == {
        k: len(p.allowed_ips) for k, p in wanted.items()
    }


ALL_OF_IT = " ".join(f"10.{i >> 8}.{i & 255}.0/24 fd00:{i:x}::/64" for i in range(2500))


@kernel
def test_five_thousand_peers_are_written_and_read(wireguard: Place) -> None:
    wanted = many(5000)

    async def fill(table: Table) -> None:
        await brought_to(table, wanted)
        assert await table.observe() == wanted
        await brought_to(table, {})

    Bench(wireguard, real("peers", wireguard)).run(fill)
    assert shown(wireguard) == {}


@kernel
def test_one_changed_peer_among_a_thousand_is_one_message(wireguard: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = many(1000)
    changed = next(iter(before))
    after = before | {changed: peer(7, "10.200.0.0/24", address="198.51.100.7", keepalive=25)}
    sent: list[int] = []

    def counted(opened: socket.socket, kind: int, body: bytes, *, flags: int = netlink.ACKNOWLEDGE) -> None:
        sent.append(len(body))
        request(opened, kind, body, flags=flags)

    async def change(table: Table) -> None:
        await brought_to(table, before)
        with monkeypatch.context() as patch:
            patch.setattr(netlink, "request", counted)
            await table.apply(diff(before, after))
        assert await table.observe() == after

    request = netlink.request
    Bench(wireguard, real("peers", wireguard)).run(change)
    assert len([size for size in sent if size > 60]) == 1, "one for the peer, beside the question for the family's number"
    assert max(sent) < 500


def test_what_stays_of_a_peer_is_not_written_again(wireguard: Place) -> None:
    """The endpoint that a peer has roamed to since it was read is kept, for nothing of it was to be changed."""
    before, after = {key("b"): peer(1, "10.2.0.0/24")}, {key("b"): peer(1, "10.2.0.0/24 10.3.0.0/24")}

    async def change(table: Table) -> None:
        await brought_to(table, before)
        wireguard.run("wg", "set", LINK, "peer", key("b"), "endpoint", "203.0.113.7:7")
        await table.apply(diff(before, after))

    Bench(wireguard, real("peers", wireguard)).run(change)
    _, endpoint, allowed, *_ = shown(wireguard)[key("b")]
    assert (endpoint, set(allowed.split(","))) == ("203.0.113.7:7", {"10.2.0.0/24", "10.3.0.0/24"})


def test_a_peer_that_is_gone_is_not_made_again_by_a_change(wireguard: Place) -> None:
    before, after = {key("b"): peer(1, "10.2.0.0/24")}, {key("b"): peer(1, "10.3.0.0/24", keepalive=25)}

    async def change(table: Table) -> None:
        await brought_to(table, before)
        wireguard.run("wg", "set", LINK, "peer", key("b"), "remove")
        await table.apply(diff(before, after))
        assert await table.observe() == {}

    Bench(wireguard, real("peers", wireguard)).run(change)


def test_key_port_and_keepalive_can_change_while_it_runs(wireguard: Place) -> None:
    other = generate()

    async def change() -> None:
        async with Rtnl(LINK) as rtnl:
            link = wireguard_link(rtnl, wireguard)
            await brought_to(PeerTable(link), many(50))
            for private, port in ((PRIVATE, 24601), (other, 24601), (PRIVATE, 24602)):
                wanted = {LINK: Device(public_key=private.public, port=port)}
                await brought_to(DeviceTable(link, private), wanted)
                assert await DeviceTable(link, private).observe() == wanted
                for keepalive in (25, 0):
                    peers = {k: peer(3, "", address="192.0.2.3", keepalive=keepalive) for k in many(50)}
                    await brought_to(PeerTable(link), peers)
                    assert await PeerTable(link).observe() == peers

    with wireguard.network():
        asyncio.run(change())
    assert wireguard.run("wg", "show", LINK, "listen-port").strip() == "24602"
    assert wireguard.run("wg", "show", LINK, "public-key").strip() == PRIVATE.public


def test_a_preshared_key_that_somebody_set_is_taken_back(wireguard: Place) -> None:
    wanted = {key("b"): peer(1, "10.2.0.0/24")}

    async def share(table: Table) -> None:
        await brought_to(table, wanted)
        wireguard.run("wg", "set", LINK, "peer", key("b"), "preshared-key", "/dev/stdin", stdin=key("secret"))
        assert (await table.observe())[key("b")].preshared
        await brought_to(table, wanted)
        assert await table.observe() == wanted

    Bench(wireguard, real("peers", wireguard)).run(share)
    assert shown(wireguard)[key("b")][0] == "(none)"


@kernel
def test_a_link_local_endpoint_keeps_its_scope(wireguard: Place) -> None:
    wireguard.batch("link add eth0 type veth peer name eth1", "link set eth0 up")
    index = wireguard.run("ip", "link", "show", "eth0").partition(":")[0]
    endpoint = Endpoint(address=IPv6Address(f"fe80::1%{index}"), port=24601)
    wanted = {key("b"): Peer(endpoint=endpoint, allowed_ips=nets("10.2.0.0/24"))}

    async def write(table: Table) -> None:
        await brought_to(table, wanted)
        assert await table.observe() == wanted

    Bench(wireguard, real("peers", wireguard)).run(write)
    assert shown(wireguard)[key("b")][1] == "[fe80::1%eth0]:24601"


@kernel
def test_a_dump_that_is_interrupted_is_whole_all_the_same(wireguard: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """While every second of 1,000 peers comes and goes, those that stay are there each time that the device is read."""
    one = many(1000)
    other = {k: p for number, (k, p) in enumerate(one.items()) if number % 2}
    ended = threading.Event()

    def swing() -> None:
        async def main() -> None:
            async with Rtnl(LINK) as rtnl:
                table = PeerTable(wireguard_link(rtnl, wireguard))
                while not ended.is_set():
                    await table.apply(diff(one, other))
                    await table.apply(diff(other, one))

        with wireguard.network():
            asyncio.run(main())

    interrupted = 0
    replies = netlink.replies

    def counted(opened: socket.socket) -> Iterator[bytes]:
        nonlocal interrupted
        try:
            yield from replies(opened)
        except InterruptedError:
            interrupted += 1
            raise

    async def look(table: Table) -> None:
        await brought_to(table, one)
        thread = threading.Thread(target=swing, daemon=True)
        thread.start()
        compared = 0
        try:
            while compared < 10 or not interrupted:
                assert thread.is_alive(), "nothing changes any more"
                with suppress(KernelError):  # it never held still, and that was said
                    seen = await table.observe()
                    compared += 1
                    assert {k: seen.get(k) for k in other} == other
        finally:
            ended.set()
            thread.join()

    monkeypatch.setattr(netlink, "replies", counted)
    Bench(wireguard, real("peers", wireguard)).run(look)


def test_a_port_in_use_is_named(wireguard: Place) -> None:
    with wireguard.network():
        taken = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        taken.bind(("::", 24601))

    async def listen(table: Table) -> None:
        with pytest.raises(KernelError, match=r"set WireGuard device wigglenet: Address already in use; free the UDP port"):
            await brought_to(table, DEVICE)

    try:
        Bench(wireguard, real("device", wireguard)).run(listen)
    finally:
        taken.close()


@kernel
def test_a_port_in_use_is_named_when_the_link_goes_up(place: Place) -> None:
    with place.network():
        taken = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        taken.bind(("::", 24601))

    async def up() -> None:
        async with Rtnl(LINK) as rtnl:
            await brought_to(DeviceTable(wireguard_link(rtnl, place), PRIVATE), DEVICE)
            with pytest.raises(KernelError, match=r"link set .*Address already in use; free the UDP port"):
                await brought_to(LinkTable(rtnl), {LINK: Link(mtu=1420)})

    with place.network():
        asyncio.run(up())
    taken.close()


@kernel
@pytest.mark.parametrize("wanted", [None, WireGuardKind.KERNEL], ids=str)
def test_without_a_link_the_kernels_is_made_and_taken_down(wanted: WireGuardKind | None, place: Place) -> None:
    async def live(table: Table) -> None:
        assert await table.observe() == {}
        await brought_to(table, DEVICE)
        assert await table.observe() == DEVICE
        assert "wireguard" in place.run("ip", "-d", "link", "show", LINK)
        await brought_to(table, {})
        assert await table.observe() == {}

    Bench(place, real("device", place, wanted)).run(live)
    assert LINK not in place.run("ip", "link")


@kernel
def test_a_device_with_a_thousand_peers_is_removed(wireguard: Place) -> None:
    async def remove() -> None:
        async with Rtnl(LINK) as rtnl:
            link = wireguard_link(rtnl, wireguard)
            await brought_to(PeerTable(link), many(1000))
            await brought_to(DeviceTable(link, PRIVATE), {})

    with wireguard.network():
        asyncio.run(remove())
    assert LINK not in wireguard.run("ip", "link")


@userspace
@pytest.mark.parametrize("kind", ["device", "peers"])
def test_without_an_implementation_userspace_says_what_to_start(kind: str, place: Place) -> None:
    async def look(table: Table) -> None:
        with pytest.raises(MissingLink, match=r"start a userspace implementation \(wireguard-go wigglenet\), or"):
            await table.observe()

    Bench(place, real(kind, place, WireGuardKind.USERSPACE)).run(look)


def test_without_the_module_the_kernels_cannot_be_made_and_auto_looks_for_userspace(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real kernel is asked, for a family that it does not have."""
    monkeypatch.setattr(wg_netlink, "NAME", b"no-such-family\0")

    async def insist(table: Table) -> None:
        with pytest.raises(KernelError, match=r"this kernel has no WireGuard: load it \(modprobe wireguard\)"):
            await brought_to(table, DEVICE)

    async def choose(table: Table) -> None:
        with pytest.raises(MissingLink, match="no WireGuard answers at"):
            await table.observe()

    Bench(place, real("device", place, WireGuardKind.KERNEL)).run(insist)
    Bench(place, real("device", place)).run(choose)
    assert LINK not in place.run("ip", "link")


@pytest.mark.parametrize("wanted", [None, *WireGuardKind], ids=str)
def test_a_link_of_that_name_that_is_no_wireguard_is_left_alone(wanted: WireGuardKind | None, place: Place) -> None:
    place.batch(f"link add {LINK} type bridge")

    async def refuse(table: Table) -> None:
        with pytest.raises(KernelError, match=r"link wigglenet is no WireGuard \(bridge\) and is left alone; remove or rename"):
            await table.observe()

    for kind in ("device", "peers"):
        Bench(place, real(kind, place, wanted)).run(refuse)
    assert "bridge" in place.run("ip", "-d", "link", "show", LINK)


def test_a_tun_for_which_nobody_answers_is_left_alone(place: Place) -> None:
    place.run("ip", "tuntap", "add", LINK, "mode", "tun")

    async def refuse(table: Table) -> None:
        with pytest.raises(MissingLink, match="no WireGuard answers at"):
            await table.observe()

    for wanted in (None, *WireGuardKind):
        Bench(place, real("device", place, wanted)).run(refuse)
    assert "tun" in place.run("ip", "-d", "link", "show", LINK)


def test_a_working_link_is_adopted_whatever_is_set(wireguard: Place, request: pytest.FixtureRequest) -> None:
    holder = WireGuardKind(request.config.getoption("--wireguard"))

    async def look() -> None:
        async with Rtnl(LINK) as rtnl:
            for wanted in (None, *WireGuardKind):
                link = wireguard_link(rtnl, wireguard, wanted)
                found, could = link.facts()
                assert found is holder
                assert not could or wanted is None
                await brought_to(DeviceTable(link, PRIVATE), DEVICE)
                assert await DeviceTable(link, PRIVATE).observe() == DEVICE

    with wireguard.network():
        asyncio.run(look())


WORDS = st.sampled_from(["b", "c", "d", "e"])
HARM = st.lists(
    st.one_of(
        st.tuples(WORDS, st.just("remove")),
        st.tuples(WORDS, st.just("endpoint"), st.sampled_from(["192.0.2.77:7", "[2001:db8::77]:7"])),
        st.tuples(WORDS, st.just("persistent-keepalive"), st.sampled_from(["0", "9"])),
        st.tuples(WORDS, st.just("preshared-key"), st.just("/dev/stdin")),
        st.tuples(WORDS, st.just("allowed-ips"), st.sampled_from(["", "10.9.0.0/16", "10.2.0.0/24,fd00:3::/64", "::/0"])),
        st.tuples(st.just(""), st.just("fwmark"), st.sampled_from(["7", "off"])),
        st.tuples(st.just(""), st.just("listen-port"), st.sampled_from(["7777", "24601"])),
        st.tuples(st.just(""), st.just("private-key"), st.just("/dev/stdin")),
    ),
    min_size=1,
    max_size=6,
)


@given(harm=HARM)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_device_that_was_changed_by_hand_is_brought_back_by_one_difference(
    harm: list[tuple[str, ...]], wireguard: Place
) -> None:
    wanted = {
        key("b"): peer(1, "10.2.0.0/24 fd00:2::/64"),
        key("c"): peer(2, "10.3.0.0/24 fd00:3::/64", address="2001:db8::3"),
        key("d"): peer(3, "10.4.0.0/24", keepalive=25),
    }
    for name, *words in harm:
        which = ("peer", key(name)) if name else ()
        wireguard.run("wg", "set", LINK, *which, *words, stdin=key("secret"))

    async def turn() -> None:
        async with Rtnl(LINK) as rtnl:
            link = wireguard_link(rtnl, wireguard)
            device, peers = DeviceTable(link, PRIVATE), PeerTable(link)
            there = await peers.observe()
            await brought_to(device, DEVICE)
            await peers.apply(diff(there, wanted))
            assert await device.observe() == DEVICE
            assert await peers.observe() == wanted

    with wireguard.network():
        asyncio.run(turn())


NONSENSE = (b"\n\n", b"errno=x\n\n", b"\xff\nerrno=0\n\n", b"half")


@userspace
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        *((kind, answer) for kind in ("device", "peers") for answer in NONSENSE),
        ("device", b"listen_port=x\nerrno=0\n\n"),
        ("device", b"private_key=00\nerrno=0\n\n"),
        ("peers", b"public_key=zz\nerrno=0\n\n"),
        ("peers", b"public_key=00\nrx_bytes=x\nerrno=0\n\n"),
    ],
)
def test_an_implementation_that_talks_nonsense_is_named(kind: str, answer: bytes, tmp_path: Path) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\n\n")
            writer.write(answer)
            writer.close()

        device = UapiDevice(LINK, directory=tmp_path)
        async with await asyncio.start_unix_server(serve, tmp_path / f"{LINK}.sock"):
            with pytest.raises(KernelError, match="get WireGuard device wigglenet: "):
                await (device.read_device() if kind == "device" else device.read_peers())

    asyncio.run(main())


def test_a_link_that_was_renamed_gets_its_name_back_with_key_port_and_peers(wireguard: Place) -> None:
    """Whoever made it: a second one could not have the port."""
    peers = {key("b"): peer(1, "10.2.0.0/24")}

    async def walk() -> None:
        async with Rtnl(LINK) as rtnl:
            link = wireguard_link(rtnl, wireguard)
            device, table = DeviceTable(link, PRIVATE), PeerTable(link)
            wanted = {LINK: Device(public_key=PRIVATE.public, port=24601)}
            await brought_to(device, wanted)
            await brought_to(table, peers)
            wireguard.batch(f"link set {LINK} down", f"link set {LINK} name stolen", "link set stolen up")
            await brought_to(device, wanted)
            await brought_to(LinkTable(rtnl), {LINK: Link(mtu=1420)})
            assert await device.observe() == wanted
            assert await table.observe() == peers

    with wireguard.network():
        asyncio.run(walk())
    assert "stolen" not in wireguard.run("ip", "link")


def test_a_link_that_took_the_place_of_ours_is_not_renamed(wireguard: Place) -> None:
    async def walk() -> None:
        async with Rtnl(LINK) as rtnl:
            assert rtnl.own_link()
            wireguard.batch(f"link set {LINK} down", f"link set {LINK} name stolen")
            wireguard.batch(f"link add {LINK} type veth peer name eth8")
            assert not await rtnl.take_back()

    with wireguard.network():
        asyncio.run(walk())
    assert "stolen" in wireguard.run("ip", "link")
