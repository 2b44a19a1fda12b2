"""kubernetes_asyncio without the classes that it generates for each kind and API: 30 MiB of memory that nothing here uses.

Importing the library imports them all. While it does so, an empty module stands for each of them; JSON is all that we exchange.
If the library should come to need one at its import, it is imported as it is.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

LIBRARY = "kubernetes_asyncio"
GENERATED = (f"{LIBRARY}.client.models", f"{LIBRARY}.client.api")
"""Packages of generated modules; `client.api_client` is none of them."""


class _Empty(MetaPathFinder, Loader):
    """Makes an empty module for each generated one."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        package = name in GENERATED
        generated = package or name.rpartition(".")[0] in GENERATED
        return ModuleSpec(name, self, is_package=package) if generated else None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = _stand_in


def _stand_in(name: str) -> type:
    """For `from module import Class`."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


if LIBRARY not in sys.modules:
    finder = _Empty()
    sys.meta_path.insert(0, finder)
    try:
        with suppress(Exception):
            import_module(LIBRARY)
    finally:
        sys.meta_path.remove(finder)
    if LIBRARY not in sys.modules:
        for unfinished in [name for name in sys.modules if name.startswith(f"{LIBRARY}.")]:
            del sys.modules[unfinished]

from kubernetes_asyncio.client.api_client import ApiClient  # noqa: E402 - after the above
from kubernetes_asyncio.client.configuration import Configuration  # noqa: E402
from kubernetes_asyncio.client.exceptions import ApiException  # noqa: E402
from kubernetes_asyncio.config import ConfigException, load_kube_config  # noqa: E402

__all__ = ["ApiClient", "ApiException", "ConfigException", "Configuration", "load_kube_config"]
