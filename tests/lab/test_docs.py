"""What README and docs/ show of a console is what happens: each block is run here, or says before it why not.

A command after `# ` is run on node a with its agent's environment, one after `$ ` in a clone whose kubectl reaches the
API server of the lab.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.docs import PAGES, ROOT, Block, Command, blocks
from tests.lab.lab import API_ADDRESS, ApiKind, Lab
from tests.lab.namespaces import Place
from tests.lab.wait import NotSeenError, eventually

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""The first has this installation's commands."""


def to_run(page: Path) -> Iterator[object]:
    """The blocks that say nothing else; kubectl asks a real API server."""
    for block in blocks(page):
        if block.not_run is None:
            by_kubectl = any(command.line.startswith("kubectl") for command in block.commands)
            yield pytest.param(block, id=block.where, marks=[pytest.mark.kube] * by_kubectl)


@pytest.fixture(scope="module")
def kubeconfig(lab: Lab, api_kind: ApiKind, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of an administrator's kubectl; empty where no test asks by it."""
    if api_kind != "kube":
        return {}
    named = {"apiVersion": "v1", "metadata": {"name": "administrator"}}
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    lab.api.admin.post(accounts, {**named, "kind": "ServiceAccount"})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subjects = [{"kind": "ServiceAccount", "name": "administrator", "namespace": "default"}]
    binding = {**named, "apiVersion": "rbac.authorization.k8s.io/v1", "roleRef": role, "subjects": subjects}
    lab.api.admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {**binding, "kind": "ClusterRoleBinding"})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = lab.api.admin.post(f"{accounts}/administrator/token", asked)["status"]["token"]
    trusted = base64.b64encode(lab.api.ca_pem.encode()).decode()
    cluster = {"server": f"https://{API_ADDRESS}:6443", "certificate-authority-data": trusted}
    path = tmp_path_factory.mktemp("administrator") / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "lab",
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "administrator"}}],
                "clusters": [{"name": "lab", "cluster": cluster}],
                "users": [{"name": "administrator", "user": {"token": token}}],
            }
        )
    )
    return {"KUBECONFIG": str(path), "HOME": str(path.parent)}  # its cache, too


@pytest.mark.parametrize("block", [one for page in PAGES for one in to_run(page)])
def test_what_a_document_shows_is_what_happens(block: Block, lab: Lab, kubeconfig: Mapping[str, str]) -> None:
    lab.expect_mesh()  # whatever the tests before have done to it
    node = lab.nodes["a"]
    for command in block.commands:
        program = command.line.split()[0]
        if not shutil.which(program, path=PATH):
            pytest.skip(f"NOT RUN: `{command.line}` needs {program}: install it")
        where = (node.place, node.environment) if command.on_a_node else (lab.place, kubeconfig)
        outputs = [""]

        def as_shown(command: Command = command, outputs: list[str] = outputs) -> bool:
            outputs.append(run(*where, command.line))  # noqa: B023 - it is called in this round only
            return command.prints(outputs[-1])

        try:
            eventually(as_shown, what="the output is what is shown", seconds=90)  # a status may be a minute old
        except NotSeenError:
            shown = "\n".join(command.shown)
            pytest.fail(f"{block.where}: {command.line}\n--- shown\n{shown}\n--- printed\n{outputs[-1]}")


def run(place: Place, environment: Mapping[str, str], line: str) -> str:
    """What a command line prints; an assertion with all that it said if it fails."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    inside = place.argv("sh", "-c", f"cd '{ROOT}' && {line}")
    done = subprocess.run(
        inside, env={**kept, "PATH": PATH, **environment}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{line} ended with {done.returncode}: {(done.stdout + done.stderr).strip()}"
    return done.stdout
