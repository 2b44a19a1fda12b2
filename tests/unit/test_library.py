"""What is imported of kubernetes_asyncio: enough to talk, and not the classes of every kind."""

import subprocess
import sys

COUNT = """
import sys
from wigglenet_operator.kube import library
of_library = [module for name, module in sys.modules.items() if name.startswith("kubernetes_asyncio.client.models.")]
print(sum(hasattr(module, "__file__") for module in of_library), library.ApiClient.__module__)
"""
NEEDED = """
import importlib.machinery, sys
class Needy:  # stands for a library that uses a generated class when it is imported
    def find_spec(self, name, path=None, target=None):
        if name == "kubernetes_asyncio.watch.watch":
            import kubernetes_asyncio.client
            kubernetes_asyncio.client.V1Node(metadata=kubernetes_asyncio.client.V1ObjectMeta(name="a"))
sys.meta_path.insert(0, Needy())
"""


def imported(script: str) -> list[str]:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_no_generated_class_is_imported() -> None:
    assert imported(COUNT) == ["0", "kubernetes_asyncio.client.api_client"]


def test_if_the_library_needs_one_it_is_imported_as_it_is() -> None:
    count, module = imported(NEEDED + COUNT)

    assert int(count) > 500
    assert module == "kubernetes_asyncio.client.api_client"
