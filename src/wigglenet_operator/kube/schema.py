"""Just the fields of a Node that we read. Source: Kubernetes API, core/v1 Node."""

from pydantic import BaseModel, Field


class Metadata(BaseModel):
    """What every object has; without name and UID there is nothing to speak of."""

    name: str
    uid: str
    creationTimestamp: object = ""  # noqa: N815 - the API's name
    annotations: dict[str, object] | None = None


class Spec(BaseModel):
    """What the control plane assigns."""

    podCIDR: str | None = None  # noqa: N815 - the API's name
    podCIDRs: list[str] | None = None  # noqa: N815 - the API's name


class Address(BaseModel):
    """One address; `type` is Hostname, InternalIP, ExternalIP, InternalDNS or ExternalDNS."""

    type: str
    address: str


class Status(BaseModel):
    """What the kubelet reports."""

    addresses: list[Address] | None = Field(default=None)
