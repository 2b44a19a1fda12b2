"""Who changed which table of nftables?  The kernel's notifications, and the generation that counts every transaction.

Own bytes, because a foreign change must cost microseconds: kube-proxy makes one every few seconds.  A datagram of changes is
searched as it is for the few words that matter; every transaction ends in a datagram of its own, NEWGEN, with its generation
and the process that made it.  Source: linux/netfilter/nf_tables.h; nf_tables_commit and nf_tables_fill_gen_info in
net/netfilter/nf_tables_api.c.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import ENOBUFS
from typing import NamedTuple

from wigglenet_operator.errors import KernelError
from wigglenet_operator.model.ruleset import TABLE

NETLINK_NETFILTER, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES = 12, 270, 1, 7
NFT_MSG_NEWGEN, NFT_MSG_GETGEN = (10 << 8) | 15, (10 << 8) | 16
NLM_F_REQUEST = 1
NFTA_GEN_ID, NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME = 1, 2, 3
NFTA_TABLE_NAME, NFTA_RULE_CHAIN, NFTA_CHAIN_NAME, NFTA_HOOK_HOOKNUM = 1, 2, 3, 1
"""The name of its table is the first attribute of every object."""
NF_INET_FORWARD = 2
SO_RCVBUFFORCE = 33
RCVBUF = 32 << 20
"""Bytes; the replacement of a table with 10,000 elements overran 4 MiB."""
DATAGRAM, ANSWER = 1 << 16, 1 << 12
"""Bytes: of what the kernel batches (NLMSG_GOODSIZE is a page at least, 32 KiB at most); of one short message."""
HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
NFGENMSG = struct.pack("=BBH", 0, 0, 0)


class Author(NamedTuple):
    """A process that made a transaction, as the kernel knows it; one that was lost is `unknown`."""

    name: str = "unknown"
    pid: int = 0
    """In the first process namespace, not in that of this container."""


class NftWatch:
    """The changes since it was opened, read when asked."""

    def __init__(self) -> None:
        """KernelError if the kernel has no nfnetlink, or forbids it."""
        self.seen = -1
        """The generation up to which all changes have been read; -1: none has."""
        self.authors: list[Author] = []
        """Of the transactions that touched our table, in order; whoever has dealt with them clears it."""
        self.forward_changed = True
        """Whether a chain of forwarded packets may have changed; whoever has looked says no."""
        self._touched = False
        self._ours = _attribute(NFTA_TABLE_NAME, TABLE.encode() + b"\0")
        self._forward = [_attribute(NFTA_HOOK_HOOKNUM, struct.pack("!I", NF_INET_FORWARD))]
        self._socket = _open()
        self._asking = _open()
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RCVBUF)
        try:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError as error:
            raise KernelError(f"listen to nftables' notifications: {error}") from error

    def generation(self) -> int:
        """The number of transactions up to now, in this network namespace; 13 microseconds."""
        try:
            self._asking.send(HEADER.pack(HEADER.size + len(NFGENMSG), NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0) + NFGENMSG)
            return int.from_bytes(_attributes(self._asking.recv(ANSWER))[NFTA_GEN_ID], "big")
        except (OSError, KeyError) as error:
            raise KernelError(f"ask nftables for its generation: {error}; this kernel may lack nf_tables") from error

    def follow(self, chains: Iterable[str]) -> None:
        """Take these chains, and rules in them, as changes of what is forwarded; by name alone, whatever their table."""
        named = [name.encode() + b"\0" for name in sorted(set(chains))]
        del self._forward[1:]
        self._forward += [_attribute(kind, name) for name in named for kind in (NFTA_RULE_CHAIN, NFTA_CHAIN_NAME)]

    def read(self) -> None:
        """Take in every change that the kernel has told of; KernelError if it cannot be read."""
        while True:
            try:
                self._take(self._socket.recv(DATAGRAM, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise KernelError(f"read nftables' notifications: {error}") from error
                self.forward_changed = True
                self.authors.append(Author())

    async def watch(self, news: Callable[[], None]) -> None:
        """Call `news` whenever changes have been read, for ever."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            self.read()
            news()

        loop.add_reader(self._socket.fileno(), readable)
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Give the sockets back."""
        self._socket.close()
        self._asking.close()

    def _take(self, datagram: bytes) -> None:
        if HEADER.unpack_from(datagram)[1] != NFT_MSG_NEWGEN:
            self._touched = self._touched or self._ours in datagram
            self.forward_changed = self.forward_changed or any(word in datagram for word in self._forward)
            return
        told = _attributes(datagram)
        self.seen = int.from_bytes(told[NFTA_GEN_ID], "big")
        if self._touched:
            name = told.get(NFTA_GEN_PROC_NAME, b"unknown").rstrip(b"\0").decode(errors="replace")
            pid = int.from_bytes(told.get(NFTA_GEN_PROC_PID, b""), "big")
            self.authors.append(Author("".join(c if c.isprintable() else "?" for c in name), pid))
        self._touched = False


def _open() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        opened.bind((0, 0))
    except OSError as error:
        raise KernelError(f"open a netlink socket for nftables: {error}; this kernel may lack nfnetlink") from error
    return opened


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload


def _attributes(message: bytes) -> dict[int, bytes]:
    """Those of the first message of a datagram, by type."""
    found: dict[int, bytes] = {}
    end, offset = min(HEADER.unpack_from(message)[0], len(message)), HEADER.size + len(NFGENMSG)
    while offset + 4 <= end:
        length, kind = struct.unpack_from("=HH", message, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = message[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found
