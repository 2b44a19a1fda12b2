"""WireGuard by the cross-platform userspace socket. Source: wireguard.com/xplatform.

The implementation (wireguard-go, …) runs beside the agent, makes the link and keeps it when the agent goes; this module
only speaks to it.  A set operation is applied line by line, so it is not atomic: an error leaves what came before it.
"""

import asyncio
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import EADDRINUSE
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar

from wigglenet_operator.errors import KernelError, MissingLink
from wigglenet_operator.kernel.keys import PrivateKey
from wigglenet_operator.kernel.memo import Memo
from wigglenet_operator.kernel.ports import PORT_TAKEN, PeerOrder
from wigglenet_operator.model.desired import Device, Endpoint, Peer
from wigglenet_operator.model.facts import IPNetwork, PublicKey
from wigglenet_operator.model.timing import PRODUCTION, Timing

T = TypeVar("T")
DIRECTORY = Path("/run/wireguard")
REPLY_LIMIT = 1 << 26
"""Bytes; 5,000 peers take 1.2 MB."""
NO_KEY = "0" * 64


class UapiDevice:
    """The device behind one implementation's socket, by the name of its link; a connection for each operation."""

    def __init__(self, link: str, directory: Path = DIRECTORY, *, timing: Timing = PRODUCTION) -> None:
        self._link, self._seconds = link, timing.device
        self._path = directory / f"{link}.sock"
        self._peers = PeerParser()

    async def read_device(self) -> Device:
        """Key, port and mark."""
        return await self._read(parse_device)

    async def read_peers(self) -> dict[PublicKey, Peer]:
        """The peers; may be empty."""
        return await self._read(self._peers.parse)

    async def write_device(self, device: Device, private_key: bytes) -> None:
        """Give it key, port and mark."""
        await self._set([f"private_key={private_key.hex()}", f"listen_port={device.port}", f"fwmark={device.mark}"])

    async def write_peers(self, orders: Sequence[PeerOrder]) -> None:
        """Carry out the orders in one operation."""
        await self._set(render_orders(orders))

    async def forget_peers(self) -> None:
        """Remove every peer."""
        await self._set(["replace_peers=true"])

    async def _read(self, parse: Callable[[str], T]) -> T:
        text = await self._exchange(["get=1"])
        try:
            return parse(text)
        except ValueError as error:
            raise KernelError(f"get WireGuard device {self._link}: it does not answer as the protocol says: {error}") from error

    async def _set(self, lines: Iterable[str]) -> None:
        await self._exchange(["set=1", *lines])

    async def _exchange(self, lines: list[str]) -> str:
        operation = f"{lines[0].partition('=')[0]} WireGuard device {self._link}"
        try:
            async with asyncio.timeout(self._seconds):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=REPLY_LIMIT)
                try:
                    writer.write("".join(f"{line}\n" for line in [*lines, ""]).encode())
                    await writer.drain()
                    reply = await reader.readuntil(b"\n\n")
                finally:
                    writer.close()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            text = f"no WireGuard answers at {self._path}; start a userspace implementation (wireguard-go {self._link}),"
            raise MissingLink(f"{text} or use the kernel's (modprobe wireguard, WIGGLENET_WG_IMPLEMENTATION=auto)") from error
        except TimeoutError as error:
            raise KernelError(f"{operation}: no answer within {self._seconds:g} s") from error
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise KernelError(f"{operation}: {error}") from error
        try:
            answer, _, status = reply.decode().strip().rpartition("errno=")
            number = abs(int(status))
        except ValueError as error:
            raise KernelError(f"{operation}: it does not answer as the protocol says: {error}") from error
        if number:
            remedy = f"; {PORT_TAKEN}" if number == EADDRINUSE else ""
            raise KernelError(f"{operation}: {os.strerror(number)}{remedy}")
        return answer


def render_orders(orders: Iterable[PeerOrder]) -> Iterator[str]:
    """The lines that carry out the orders."""
    for order in orders:
        yield f"public_key={b64decode(order.key).hex()}"
        if order.known:
            yield "update_only=true"
        if order.remove:
            yield "remove=true"
        if order.unshare:
            yield f"preshared_key={NO_KEY}"
        if order.endpoint:
            yield f"endpoint={order.endpoint}"
        if order.keepalive is not None:
            yield f"persistent_keepalive_interval={order.keepalive}"
        yield from (f"allowed_ip={network}" for network in order.allow)


def parse_device(text: str) -> Device:
    """Key, port and mark of a device's lines; ValueError if they are not such."""
    fields = _fields(text.partition("public_key=")[0].splitlines())
    private = fields.get("private_key")
    return Device(
        public_key=PrivateKey(bytes.fromhex(private)).public if private else None,
        port=int(fields.get("listen_port", 0)),
        mark=int(fields.get("fwmark", 0)),
    )


class PeerParser:
    """Reads answers of one device, one after the other."""

    def __init__(self) -> None:
        self._networks = Memo(_networks)
        self._peers = Memo(self._known)

    def parse(self, text: str) -> dict[PublicKey, Peer]:
        """The peers of a device's lines (keys are hexadecimal there); ValueError if they are not such."""
        self._networks.begin()
        self._peers.begin()
        return dict(map(self._peers, text.split("public_key=")[1:]))

    def _known(self, block: str) -> tuple[PublicKey, Peer]:
        key, *lines = block.splitlines()
        fields = _fields(lines)
        endpoint = fields.get("endpoint")
        return PublicKey(b64encode(bytes.fromhex(key)).decode()), Peer(
            endpoint=_endpoint(endpoint) if endpoint else None,
            allowed_ips=self._networks(tuple(line for line in lines if line.startswith("allowed_ip="))),
            keepalive=int(fields.get("persistent_keepalive_interval", 0)),
            preshared=fields.get("preshared_key", NO_KEY) != NO_KEY,
            handshake=int(fields.get("last_handshake_time_sec", 0)),
            received=int(fields.get("rx_bytes", 0)),
            sent=int(fields.get("tx_bytes", 0)),
        )


def _networks(lines: tuple[str, ...]) -> frozenset[IPNetwork]:
    return frozenset(ip_network(line.partition("=")[2]) for line in lines)


def _endpoint(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return Endpoint(address=ip_address(address.strip("[]")), port=int(port))


def _fields(lines: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in lines)}
