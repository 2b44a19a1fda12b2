"""Just the fields of a Node that we read. Source: Kubernetes API, core/v1 Node."""

from pydantic import BaseModel, Field

LONGEST_NAME = 253
"""Characters of a DNS subdomain, which a Node's name is."""


class Metadata(BaseModel):
    """What every object has; without name and UID there is nothing to speak of."""

    name: str = Field(pattern="^[-.0-9A-Za-z]+$", max_length=LONGEST_NAME)
    """What the API server allows, roughly: it goes into log lines and onto terminals as it is."""
    uid: str = Field(min_length=1)
    creationTimestamp: object = None  # noqa: N815 - the API's name
    annotations: object = None
    """An object; of another type it costs the annotations, not the Node."""


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
    conditions: object = None
    """A list; read of the own Node only."""
