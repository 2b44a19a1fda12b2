"""A WireGuard link in a place, by whoever implements it."""

from tests.lab.namespaces import Place
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind


def make_link(place: Place, name: str, kind: WireGuardKind) -> None:
    """A new link that is down and has nothing; a userspace one is ready to be told, and ends with its link or its place."""
    if kind is WireGuardKind.KERNEL:
        place.run("ip", "link", "add", name, "type", "wireguard")
        return
    place.popen("wireguard-go", "-f", name, log=f"/run/wireguard-{name}.log")
    eventually(place.path(f"/run/wireguard/{name}.sock").exists, what="wireguard-go listens")
