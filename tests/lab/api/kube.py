"""How does a real API server run in a place?  etcd and kube-apiserver on its tmpfs, and nothing else of a control plane.

So nobody allocates podCIDRs, collects garbage or reports status: the lab plays them (`Client`).
"""

import contextlib
import json
import re
import shutil
import ssl
import subprocess
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.lab.api.client import ApiStatus, Client, Json
from tests.lab.api.kube_binary import find_etcd, find_kube_apiserver
from tests.lab.namespaces import Place, stop
from tests.lab.wait import NotSeenError, eventually

PORT = 6443
HOME = "/run/kube-apiserver"  # of the place, a tmpfs: keys, data, logs
ETCD, ETCD_PEER = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
START_SECONDS = 120.0  # 8 s on two free cores
# With a watch open kube-apiserver waits for a minute; it keeps nothing, so it may be killed.
STOP_SECONDS = 1.0
LOG_LINES = 20
_NODE_BINDING = ("ServiceAccountTokenNodeBinding", "ServiceAccountTokenNodeBindingValidation", "ServiceAccountTokenPodNodeInfo")
_NODE_BINDING_BY_DEFAULT = (1, 31)
# With WatchList, a watch without a version waits until the watch cache is as new as etcd, which an older etcd (Debian's) does
# not tell it: an ERROR event, 504 "Too large resource version", until the next write of that very kind.
_PROGRESS_ON_REQUEST = (3, 5, 8)


class KubeServer:
    """The `ApiServer` that is the truth."""

    name: Literal["kube"] = "kube"

    def __init__(self, place: Place, address: str) -> None:
        """Find (or make) the binaries, lay keys on the place's tmpfs; nothing runs yet."""
        self._place = place
        self._address = address
        self._apiserver, self._etcd = find_kube_apiserver(), find_etcd()
        self._running: list[subprocess.Popen[str]] = []
        self._clients: list[Client] = []
        self.url = f"https://[{address}]:{PORT}" if ":" in address else f"https://{address}:{PORT}"
        authority = trustme.CA()
        self.ca_pem = authority.cert_pem.bytes().decode()
        self._lay_keys(authority.issue_cert(address))
        # A client certificate of this organisation is how a cluster's first administrator comes to be.
        tls = ssl.create_default_context(cadata=self.ca_pem)
        authority.issue_cert("lab-admin", common_name="lab-admin", organization_name="system:masters").configure_cert(tls)
        self.admin = Client(self.url, tls, place)
        self._clients.append(self.admin)

    def client(self, token: str) -> Client:
        """A client that may do what the bearer of `token` may."""
        made = Client(self.url, ssl.create_default_context(cadata=self.ca_pem), self._place, token=token)
        self._clients.append(made)
        return made

    def start(self) -> None:
        """Return when the server is ready and has made kube-system; RuntimeError with its last words otherwise."""
        try:
            for argv in (self._etcd_argv(), self._apiserver_argv())[len(self._running) :]:
                self._running.append(self._place.popen(*argv, log=self._log(Path(argv[0])), env={}))
            eventually(self._ready, what="/readyz of kube-apiserver", seconds=START_SECONDS)
        except (NotSeenError, ChildProcessError) as error:
            words = self._last_words()
            self.stop()
            raise RuntimeError(f"{error}\n{words}") from error

    def stop(self) -> None:
        """End both processes; what etcd stores stays on the tmpfs. Twice is fine."""
        for client in self._clients:
            client.close()
        while self._running:
            stop(self._running.pop(), seconds=STOP_SECONDS)  # last started, first stopped

    def forget_history(self) -> None:
        """Make every watch and `continue` from before now answer 410: etcd forgets, and a restart empties the watch cache."""
        self.admin.close()
        stop(self._running.pop(), seconds=STOP_SECONDS)
        # etcd's JSON gateway; a range request is how one asks it for its revision.
        revision = self._etcd_call("range", {"key": "AA=="})["header"]["revision"]
        self._etcd_call("compaction", {"revision": revision, "physical": True})
        self.start()

    def snapshot(self) -> None:
        """Keep what etcd stores for restore(); the server is started anew."""
        self._copy_data("etcd", "etcd-snapshot")

    def restore(self) -> None:
        """Have etcd store what it did at snapshot(); the server is started anew."""
        self._copy_data("etcd-snapshot", "etcd")

    def _copy_data(self, source: str, target: str) -> None:
        home = self._place.path(HOME)
        self.stop()
        shutil.rmtree(home / target, ignore_errors=True)
        shutil.copytree(home / source, home / target)
        self.start()

    def _etcd_call(self, what: str, body: Json) -> Json:
        where = urlsplit(ETCD)
        with self._place.network(), contextlib.closing(HTTPConnection(where.hostname or "", where.port, timeout=10)) as etcd:
            etcd.request("POST", f"/v3/kv/{what}", json.dumps(body))
            with etcd.getresponse() as response:
                answer: Json = json.loads(response.read())
        if response.status != HTTPStatus.OK:
            raise RuntimeError(f"etcd, {what}: {answer}")
        return answer

    def _ready(self) -> bool:
        for process, binary in zip(self._running, (self._etcd, self._apiserver), strict=False):
            if process.poll() is not None:
                raise ChildProcessError(f"{binary.name} ended with {process.returncode}")
        if not self.admin.ready():
            return False
        try:
            return bool(self.admin.get("/api/v1/namespaces/kube-system"))
        except ApiStatus:
            return False

    def _lay_keys(self, leaf: trustme.LeafCert) -> None:
        home = self._place.path(HOME)
        home.mkdir(mode=0o700)
        # It signs tokens and verifies them; the server reads a public key out of this older format only.
        signing = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        files = {
            "ca.crt": self.ca_pem.encode(),
            "server.crt": b"".join(one.bytes() for one in leaf.cert_chain_pems),
            "server.key": leaf.private_key_pem.bytes(),
            "sa.key": signing,
        }
        for name, content in files.items():
            (home / name).write_bytes(content)

    def _etcd_argv(self) -> list[str]:
        return [
            str(self._etcd),
            f"--data-dir={HOME}/etcd",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={ETCD_PEER}",
            f"--initial-advertise-peer-urls={ETCD_PEER}",
            f"--initial-cluster=default={ETCD_PEER}",
            "--unsafe-no-fsync",  # hidden from --help; a lab does not outlive its machine
        ]

    def _apiserver_argv(self) -> list[str]:
        argv = [
            str(self._apiserver),
            f"--etcd-servers={ETCD}",
            f"--bind-address={self._address}",
            f"--secure-port={PORT}",
            f"--cert-dir={HOME}",
            f"--tls-cert-file={HOME}/server.crt",
            f"--tls-private-key-file={HOME}/server.key",
            f"--client-ca-file={HOME}/ca.crt",
            f"--service-account-key-file={HOME}/sa.key",
            f"--service-account-signing-key-file={HOME}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
        ]
        gates = [f"{gate}=true" for gate in _NODE_BINDING] if _version(self._apiserver) < _NODE_BINDING_BY_DEFAULT else []
        if _version(self._etcd) < _PROGRESS_ON_REQUEST:
            gates.append("WatchList=false")
        return [*argv, "--feature-gates=" + ",".join(gates)] if gates else argv

    @staticmethod
    def _log(binary: Path) -> str:
        return f"{HOME}/{binary.name}.log"

    def _last_words(self) -> str:
        words = []
        for binary in (self._etcd, self._apiserver):
            log = self._place.path(self._log(binary))
            if log.exists():
                words += [f"--- {binary.name}", *log.read_text(errors="replace").splitlines()[-LOG_LINES:]]
        return "\n".join(words)


def _version(binary: Path) -> tuple[int, ...]:
    """The first version that `--version` tells."""
    said = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    if found is None:
        raise RuntimeError(f"{binary} --version tells none: {said}")
    return tuple(int(number) for number in found[0].split("."))
