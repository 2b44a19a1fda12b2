"""The CNI configuration list that kubelets give to the standard plugins. Source: CNI spec 1.0.0, ptp, host-local, portmap."""

import json
from collections.abc import Sequence

from wigglenet_operator.model.facts import IPNetwork

NETWORK = "wigglenet"
DATA_DIR = "/run/cni-ipam-state"
"""Has the leases of each network below its name."""
CNI_VERSION = "1.0.0"
"""What Debian 12's plugins speak at most (they refuse 1.1.0)."""


def render_conflist(networks: Sequence[IPNetwork], *, mtu: int) -> str:
    """The file's text, ending in a newline; a pod gets one address of each family that has a network.

    All networks of a family are one range set: two sets would give a pod two addresses of that family.
    """
    families = sorted({n.version for n in networks})
    ranges = [[{"subnet": str(n)} for n in networks if n.version == family] for family in families]
    routes = [{"dst": "0.0.0.0/0" if family == 4 else "::/0"} for family in families]
    ipam = {"type": "host-local", "dataDir": DATA_DIR, "ranges": ranges, "routes": routes}
    ptp = {"type": "ptp", "mtu": mtu, "ipMasq": False, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": CNI_VERSION, "name": NETWORK, "plugins": [ptp, portmap]}, indent=2) + "\n"
