"""A cluster with our images, first without and then with our manifests and the probes; a client.

Unless a test says which: one of both families for each mode of kube-proxy.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network

import pytest

from tests.kind.cluster import IPTABLES, NFTABLES, ROOT, Cluster, Outside
from wigglenet_operator import __version__

FIGURES: list[str] = []
IMAGES = [ROOT / f"dist/wigglenet-operator-{__version__}.tar", ROOT / "dist/wigglenet-probe.tar"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of a cluster run together, in the order of files and lines: those of the life cycle leave it less than whole.

    pytest compares positions of parameters, and would make the cluster twice.
    """
    setups = {item: str(item.callspec.params.get("bare")) if hasattr(item, "callspec") else "" for item in items}
    order = {setup: number for number, setup in enumerate(dict.fromkeys(setups.values()))}
    items.sort(key=lambda item: (order[setups[item]], item.path, item.location[1] or 0))


@pytest.fixture(scope="session", params=[IPTABLES, NFTABLES], ids=str)
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nodes that have our images and no network plugin."""
    for archive in IMAGES:
        assert archive.exists(), f"{archive.relative_to(ROOT)} is missing: run `nox -s kind`, which builds it"
    made = Cluster(f"wigglenet-{request.param}-{os.getpid()}", tmp_path_factory.mktemp("cluster"), request.param)
    try:
        made.create()
        with ThreadPoolExecutor() as pool:
            list(pool.map(made.load, IMAGES))
        yield made
    finally:
        made.delete()


@pytest.fixture(scope="session")
def wireguard(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The components of the manifests that the nodes' WireGuard needs."""
    return ("userspace",) if request.config.getoption("--wireguard") == "userspace" else ()


@pytest.fixture(scope="session")
def cluster(bare: Cluster, wireguard: tuple[str, ...]) -> Cluster:
    """Nodes whose pods reach each other."""
    start = time.monotonic()
    bare.install(*wireguard, *bare.setup.components)
    bare.ready()
    FIGURES.append(f"{bare.setup}: {time.monotonic() - start:.1f} s from apply to all nodes Ready")
    bare.probe()
    bare.expect_mesh()
    return bare


@pytest.fixture(scope="session")
def outside(cluster: Cluster) -> Iterator[Outside]:
    """A machine that is not of the cluster and has routes to the pods of each node, as a router of the underlay may have."""
    made = Outside(f"{cluster.name}-outside", IMAGES[1])
    try:
        for node, addresses in cluster.nodes().items():
            for network in cluster.pod_networks(node):
                made.route(network, addresses[ip_network(network).version])
        yield made
    finally:
        made.delete()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was measured by the way."""
    for figure in FIGURES:
        terminalreporter.write_line(figure)
