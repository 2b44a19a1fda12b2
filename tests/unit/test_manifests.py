"""Manifests, image and documents agree on every name and number."""

import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import config
from wigglenet_operator import __version__
from wigglenet_operator.agent.health import Health
from wigglenet_operator.agent.mesh import BOOT_MARKER
from wigglenet_operator.agent.serve import health_pages
from wigglenet_operator.kernel.sysctls import WRITABLE
from wigglenet_operator.model.facts import NodeName
from wigglenet_operator.plan.cni import DATA_DIR, render_conflist
from wigglenet_operator.plan.desired import NODE_IPS, POD_CIDRS, PUBLIC_KEY, STATUS
from wigglenet_operator.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
INSTALL = (ROOT / "docs/install.md").read_text()
INSTALLS = ("install.yaml", "install-userspace.yaml")


def objects(*files: str) -> dict[tuple[str, str], Any]:
    """Objects of files by kind and name."""
    found = [one for file in files for one in yaml.safe_load_all((MANIFESTS / file).read_text())]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def containers(install: str) -> Iterator[dict[str, Any]]:
    for (kind, _), one in objects(install).items():
        if kind == "DaemonSet":
            spec = one["spec"]["template"]["spec"]
            yield from [*spec.get("initContainers", []), *spec["containers"]]


def agent(install: str) -> dict[str, Any]:
    return next(one for one in containers(install) if one["name"] == "agent")


def test_what_is_installed_is_what_the_sources_say() -> None:
    """`nox -s manifests` renders it; the kind session checks it by kubectl to the letter."""
    sources = objects("agent/rbac.yaml", "agent/admission.yaml", "agent/daemonset.yaml")

    assert objects("install.yaml") == sources
    (added,) = objects("userspace/daemonset.yaml").items()
    with_userspace = objects("install-userspace.yaml")
    assert with_userspace.keys() - sources.keys() == {added[0]}
    assert with_userspace[added[0]] == added[1]


@pytest.mark.parametrize("install", INSTALLS)
def test_every_container_runs_this_version(install: str) -> None:
    assert {one["image"] for one in containers(install)} == {f"wigglenet-operator:{__version__}"}


@pytest.mark.parametrize("install", INSTALLS)
def test_no_container_has_more_than_two_capabilities(install: str) -> None:
    for one in containers(install):
        security = one["securityContext"]
        assert not security.get("privileged")
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"]["drop"] == ["ALL"]
        assert set(security["capabilities"]["add"]) <= {"NET_ADMIN", "NET_RAW", "DAC_OVERRIDE"}
        assert one["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("install", INSTALLS)
def test_the_agent_has_the_files_that_it_writes_from_the_node(install: str) -> None:
    spec = objects(install)["DaemonSet", "wigglenet-operator"]["spec"]["template"]["spec"]
    on_the_node = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    mounted = {m["mountPath"]: on_the_node[m["name"]] for m in agent(install)["volumeMounts"] if not m.get("readOnly")}
    written = {str(path.parent) for path in (config().key_path, config().cni_path, BOOT_MARKER)} | {"/run/wireguard"}

    written |= {"/run/xtables.lock"}  # iptables-legacy's
    assert mounted == {path: path for path in written} | {f"/{WRITABLE}/net": "/proc/sys/net"}


@pytest.mark.parametrize("install", INSTALLS)
def test_every_setting_in_a_manifest_is_one(install: str) -> None:
    assert {variable["name"] for variable in agent(install)["env"]} <= Settings.model_fields.keys()


@pytest.mark.parametrize("install", INSTALLS)
def test_the_probes_ask_where_the_agent_answers(install: str) -> None:
    health, pages = config().health, health_pages(Health(NodeName("a"), silent=lambda: 0.0))

    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        asked = agent(install)[probe]["httpGet"]
        assert asked == {"host": str(health.host), "port": health.port, "path": path}
        assert path in pages
        assert agent(install)[probe]["periodSeconds"] >= agent(install)[probe]["timeoutSeconds"]
    assert Settings.model_fields["HEALTH_BIND_ADDR"].default == health


@pytest.mark.parametrize("mode", sorted(MANIFESTS.glob("modes/*")), ids=lambda path: path.name)
def test_the_settings_of_a_mode_are_accepted_and_the_documents_name_it(mode: Path) -> None:
    change, *_ = yaml.safe_load((mode / "kustomization.yaml").read_text())["patches"]
    (patched,) = yaml.safe_load(change["patch"])["spec"]["template"]["spec"]["containers"]
    chosen = {variable["name"]: variable["value"] for variable in patched["env"]}
    settings = read_settings({"NODE_NAME": "a", "KUBERNETES_SERVICE_HOST": "10.96.0.1"} | chosen)

    assert settings.model_fields_set > chosen.keys()
    if path := chosen.get("POD_CIDR_SOURCE_PATH"):
        assert {"name": "key", "mountPath": str(Path(path).parent)} in agent("install.yaml")["volumeMounts"]
        assert f"`{path}`" in INSTALL
    assert f"`{mode.relative_to(ROOT)}`" in INSTALL


def test_the_policy_allows_what_the_agent_publishes() -> None:
    policy = objects("install.yaml")["ValidatingAdmissionPolicy", "wigglenet-operator"]
    published = next(one["expression"] for one in policy["spec"]["variables"] if one["name"] == "published")

    assert set(yaml.safe_load(published)) == {PUBLIC_KEY, NODE_IPS, POD_CIDRS, STATUS}


def test_cleanup_is_the_agent_with_less() -> None:
    """Its token is of the agent's account, which may change its own Node only; what it has more is the plugins' leases."""
    job = yaml.safe_load((MANIFESTS / "cleanup.yaml").read_text())["spec"]["template"]["spec"]
    daemon = objects("install.yaml")["DaemonSet", "wigglenet-operator"]["spec"]["template"]["spec"]
    (own,), agents = job["containers"], agent("install.yaml")
    leases = {"name": "leases", "hostPath": {"path": DATA_DIR, "type": "DirectoryOrCreate"}}
    pod = ("serviceAccountName", "priorityClassName", "hostNetwork", "enableServiceLinks", "tolerations", "securityContext")

    assert [job[field] for field in pod] == [daemon[field] for field in pod]
    assert [own[field] for field in ("image", "env", "resources")] == [agents[field] for field in ("image", "env", "resources")]
    mine, theirs = own["securityContext"].pop("capabilities"), agents["securityContext"].pop("capabilities")
    assert (own["securityContext"], mine["drop"]) == (agents["securityContext"], theirs["drop"])
    assert set(mine["add"]) < set(theirs["add"])
    assert [volume for volume in job["volumes"] if volume not in daemon["volumes"]] == [leases]
    added = [mount for mount in own["volumeMounts"] if mount not in agents["volumeMounts"]]
    assert added == [{"name": "leases", "mountPath": DATA_DIR}]


def test_the_image_has_the_very_packages_that_are_tested() -> None:
    def pins(lock: str) -> set[str]:
        return {line.split(" ")[0] for line in (ROOT / lock).read_text().splitlines() if "==" in line}

    shipped = pins("image/requirements.lock")
    assert shipped <= pins("requirements.lock")
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split("[^a-z0-9-]", name)[0] for name in needed} <= {pin.split("==")[0] for pin in shipped}


def test_the_image_has_the_plugins_that_the_configuration_and_the_documents_name() -> None:
    built = set(re.findall(r"\$plugins/plugins/\w+/([\w-]+)", (ROOT / "Containerfile").read_text()))
    conflist = json.loads(render_conflist([ip_network("10.1.0.0/24")], mtu=1420))
    configured = {one["type"] for one in conflist["plugins"]} | {
        one["ipam"]["type"] for one in conflist["plugins"] if "ipam" in one
    }

    assert built == configured | {"loopback"}
    assert all(f"`{name}`" in INSTALL for name in built)
    assert f"UDP port {Settings.model_fields['WIGGLENET_WG_PORT'].default} open" in INSTALL


@pytest.mark.parametrize("name", ["gcc", "x86_64-linux-gnu-gcc-12", "cc", "go", "pip3.11", "pip", "make", "wireguard-go", "ip"])
def test_what_builds_or_installs_is_found_in_an_image(name: str) -> None:
    forbidden = runpy.run_path(str(ROOT / "image/build.py"))["FORBIDDEN"]

    assert bool(forbidden.search(f"usr/bin/{name}")) is (name not in {"wireguard-go", "ip"})
