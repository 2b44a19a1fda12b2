"""One cluster for each mode of kube-proxy, with the images loaded, the probes waiting, and our manifest applied; a client."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network

import pytest

from tests.kind.cluster import PROBES, ROOT, Cluster, Outside
from wigglenet_operator import __version__

FIGURES: list[str] = []
IMAGES = [ROOT / f"dist/wigglenet-operator-{__version__}.tar", ROOT / "dist/wigglenet-probe.tar"]


@pytest.fixture(scope="session", params=["iptables", "nftables"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes whose pods reach each other."""
    for archive in IMAGES:
        assert archive.exists(), f"{archive.relative_to(ROOT)} is missing: run `nox -s kind`, which builds it"
    made = Cluster(f"wigglenet-{request.param}-{os.getpid()}", tmp_path_factory.mktemp("cluster"))
    try:
        made.create(ROOT / "kind/dual-stack.yaml", proxy=request.param)
        with ThreadPoolExecutor() as pool:
            list(pool.map(made.load, IMAGES))
        start = time.monotonic()
        made.install(userspace=request.config.getoption("--wireguard") == "userspace")
        made.ready()
        FIGURES.append(f"kube-proxy {request.param}: {time.monotonic() - start:.1f} s from apply to all nodes Ready")
        made.kubectl("apply", "-f", str(PROBES))
        for probe in ("probe", "node-probe"):
            made.rolled_out(probe, namespace="default")
        made.expect_mesh()
        yield made
    finally:
        made.delete()


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
