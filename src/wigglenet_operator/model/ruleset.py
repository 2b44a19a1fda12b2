"""A table of nftables as values: chains, sets and maps by name, and the elements of sets and maps one by one.

Every text is as `nft list table` writes it, so that what is wanted and what is read back are compared as they are; a
statement of two spellings has only that one here.  Source: nft(8).
"""

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from wigglenet_operator.model.changes import Parts
from wigglenet_operator.model.facts import IPAddress, IPNetwork

FAMILY, TABLE = "inet", "wigglenet"
"""The one table that is ours."""


class Item(NamedTuple):
    """A thing in the table."""

    kind: str
    """`chain`, `set` or `map`; of what others put there also `flowtable`, `counter` and so on, empty for the table itself."""
    name: str
    element: str = ""
    """The key of an element of that set or map; empty: the chain, set or map itself."""


Content = tuple[str, ...] | str
"""Of a chain, set or map its lines, in order: a base chain's hook comes first (`type filter hook forward …`), then its rules;
of a set or map `typeof …`, then `flags …`.  Of an element the verdict that a map has for it, in a set nothing."""
Ruleset = Mapping[Item, Content]
"""The whole table; an element is in it only together with its set or map, without an item there is no table."""


def part_of(item: Item) -> str:
    """The part of a Ruleset: the elements of each set or map are one, by its name; all chains and definitions are another."""
    return item.name if item.element else ""


def in_parts(items: Mapping[Item, Content]) -> Parts[Item, Content]:
    """A ruleset in the form that `diff` compares set by set."""
    return Parts.of(items.items(), part_of)


def element_text(network: IPNetwork) -> str:
    """A network as an element, in nft's words: an address without its length."""
    text = address_text(network.network_address)
    return text if network.prefixlen == network.max_prefixlen else f"{text}/{network.prefixlen}"


def address_text(address: IPAddress) -> str:
    """An address as an element; one that embeds IPv4 is dotted (inet_ntop(3))."""
    number = int(address)
    if address.version == 6 and number >> 32 in {0, 0xFFFF} and number >> 16:
        return ("::ffff:" if number >> 32 else "::") + str(IPv4Address(number & 0xFFFFFFFF))
    return str(address)
