"""Routes to single addresses, as the kernel gave them, until an event concerns them.

Route events are frequent where pods start and stop, and nearly none concerns the address of a Node. So the addresses are
sorted: an event costs a binary search, whatever the number of Nodes.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping

from wigglenet_operator.model.facts import IPAddress, IPNetwork, bounds

Path = tuple[int, int]
"""MTU of the route in bytes, 0 if it sets none, and index of the link that it leads through. (0, 0): there is no route."""
NO_PATH: Path = (0, 0)


class Paths:
    """Paths by address. Both IP versions may be present."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Discard all paths."""
        self._by_address: dict[IPAddress, Path] = {}
        self._links: Counter[int] = Counter()
        """Number of paths by index of the link."""
        self._sorted: dict[int, list[tuple[int, IPAddress]]] = {4: [], 6: []}
        """Addresses by IP version, each after its number."""

    def __contains__(self, address: IPAddress) -> bool:
        """Whether the path to this address is known."""
        return address in self._by_address

    def __getitem__(self, address: IPAddress) -> Path:
        """The path to an address; KeyError if it is not known."""
        return self._by_address[address]

    def add(self, paths: Mapping[IPAddress, Path]) -> None:
        """Add paths to addresses that are not known yet."""
        for address, path in paths.items():
            self._by_address[address] = path
            self._links[path[1]] += 1
            insort(self._sorted[address.version], (int(address), address))

    def discard_through(self, link: int) -> bool:
        """Discard the paths through a link; whether there were any."""
        if not self._links[link]:
            return False
        self._discard([address for address, (_, through) in self._by_address.items() if through == link])
        return True

    def discard_within(self, network: IPNetwork) -> bool:
        """Discard the paths to all addresses in a network; whether there were any."""
        first, last = bounds(network)
        known = self._sorted[network.version]
        lost = known[bisect_left(known, (first,)) : bisect_left(known, (last + 1,))]
        self._discard(address for _, address in lost)
        return bool(lost)

    def _discard(self, addresses: Iterable[IPAddress]) -> None:
        for address in addresses:
            self._links[self._by_address.pop(address)[1]] -= 1
            known = self._sorted[address.version]
            del known[bisect_left(known, (int(address),))]
