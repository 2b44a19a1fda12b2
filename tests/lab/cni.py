"""A container runtime's part of CNI: run a configuration list's plugins for one sandbox. Source: CNI spec 1.0.0, section 3."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from tests.lab.namespaces import Place

PLUGINS = "/usr/lib/cni"
"""Where Debian's containernetworking-plugins lie."""
Result = dict[str, Any]


def run_list(  # noqa: PLR0913 - what a runtime tells
    command: Literal["ADD", "DEL"],
    conflist: Mapping[str, Any],
    *,
    place: Place,
    sandbox: str,
    result: Result | None = None,
    runtime: Mapping[str, Any] | None = None,
) -> Result:
    """The result of the last plugin (ADD), or nothing (DEL, in reverse order); CommandError if a plugin refuses.

    `runtime` has by capability what the runtime tells the plugins that have it, such as `portMappings`.
    """
    plugins = conflist["plugins"] if command == "ADD" else reversed(conflist["plugins"])
    for plugin in plugins:
        config = {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **plugin}
        config["runtimeConfig"] = {
            name: told for name, told in (runtime or {}).items() if name in plugin.get("capabilities", {})
        }
        if result:
            config["prevResult"] = result
        answer = place.run(
            "env",
            f"CNI_COMMAND={command}",
            f"CNI_CONTAINERID={sandbox}",
            f"CNI_NETNS=/run/netns/{sandbox}",
            "CNI_IFNAME=eth0",
            f"CNI_PATH={PLUGINS}",
            f"{PLUGINS}/{plugin['type']}",
            stdin=json.dumps(config),
        )
        if command == "ADD":
            result = json.loads(answer)
    return result or {}
