"""Which chains of other tables drop what is forwarded?  Looked at when one of them has changed, not before."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from itertools import chain

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.nft import nft
from wigglenet_operator.kernel.nft_watch import NftWatch
from wigglenet_operator.model.facts import DroppingChain, IPNetwork
from wigglenet_operator.model.ruleset import FAMILY, TABLE

log = logging.getLogger(__name__)
VERSIONS = {"ip": frozenset({4}), "ip6": frozenset({6}), "inet": frozenset({4, 6})}
"""Families of tables that see packets of pods."""
ACCEPTED = re.compile(r"\bip6? [sd]addr (\S+) .*\baccept$")
JUMP = re.compile(r"\b(?:jump|goto) (\S+)$")
FINAL = re.compile(r"^(counter )?(drop|reject( with .*)?)$")


class OtherTables:
    """What nftables shows of other tables; what the legacy iptables programs make is not in it."""

    def __init__(self, watch: NftWatch) -> None:
        self._watch = watch
        self._dropping: frozenset[DroppingChain] = frozenset()
        self._failure = ""

    async def dropping(self) -> frozenset[DroppingChain]:
        """Chains that drop what is forwarded unless told otherwise; what was known before if nft cannot tell."""
        self._watch.read()
        if self._watch.forward_changed:
            self._watch.forward_changed = False
            try:
                self._dropping = await self._look()
                self._failure = ""
            except KernelError as error:
                self._watch.forward_changed = True  # so that the next turn looks again
                if str(error) != self._failure:
                    log.warning("whether other tables drop pods' packets is not known: %s", error)
                self._failure = str(error)
        return self._dropping

    async def _look(self) -> frozenset[DroppingChain]:
        listed = json.loads(await nft("-j", "list", "chains"))["nftables"]
        names: set[str] = set()
        found: set[DroppingChain] = set()
        for base in (entry["chain"] for entry in listed if "chain" in entry):
            if base.get("hook") != "forward" or base["family"] not in VERSIONS or _ours(base):
                continue
            names.add(base["name"])
            rules = await _rules(base, base["name"])
            if base.get("policy") == "drop" or (rules and FINAL.match(rules[-1])):
                called = [match[1] for match in map(JUMP.search, rules) if match]
                names |= {*called}
                more = [await _rules(base, name) for name in called]
                found.add(_dropping(base, [*rules, *chain.from_iterable(more)]))
        self._watch.follow(names)
        return frozenset(found)


def _ours(base: Mapping[str, str]) -> bool:
    return (base["family"], base["table"]) == (FAMILY, TABLE)


def _dropping(base: Mapping[str, str], rules: Iterable[str]) -> DroppingChain:
    return DroppingChain(
        name=f"{base['family']} {base['table']} {base['name']}",
        versions=VERSIONS[base["family"]],
        accepted=frozenset(_accepted(rules)),
    )


def _accepted(rules: Iterable[str]) -> Iterator[IPNetwork]:
    for match in filter(None, map(ACCEPTED.search, rules)):
        try:
            yield ip_network(match[1])
        except ValueError:
            continue  # a set, a range: not understood


async def _rules(base: Mapping[str, str], name: str) -> list[str]:
    """The lines of a chain of the same table, but for its definition; empty if it has gone."""
    listing = await nft("-s", "list", "chain", base["family"], base["table"], name, missing="")
    lines = [line.strip() for line in listing.splitlines()]
    return [line for line in lines if line and not line.endswith("{") and line != "}" and not line.startswith("type ")]
