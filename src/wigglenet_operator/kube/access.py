"""How to reach the API server from a pod: address from the environment, token and CA from the service account's files."""

from dataclasses import dataclass
from pathlib import Path

from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader

from wigglenet_operator.errors import ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAccess:
    """Where the API server is and what proves who we are; the token file is rotated by the kubelet, so it is read again."""

    host: str
    port: int
    directory: Path = SERVICE_ACCOUNT

    @property
    def server(self) -> str:
        """The base URL."""
        return f"https://[{self.host}]:{self.port}" if ":" in self.host else f"https://{self.host}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """PEM."""
        return self.directory / "ca.crt"

    def token(self) -> str:
        """The token of now; OSError if there is none."""
        return (self.directory / "token").read_text().strip()

    def client(self) -> ApiClient:
        """A kubernetes_asyncio client of the running loop; ConfigError if the files are missing."""
        configuration = Configuration()
        loader = InClusterConfigLoader(
            token_filename=str(self.directory / "token"),
            cert_filename=str(self.ca_file),
            environ={"KUBERNETES_SERVICE_HOST": self.host, "KUBERNETES_SERVICE_PORT": str(self.port)},
        )
        try:
            loader.load_and_set(configuration)
        except ConfigException as error:
            raise ConfigError(f"service account in {self.directory}: {error}; is automountServiceAccountToken off?") from error
        return ApiClient(configuration)
