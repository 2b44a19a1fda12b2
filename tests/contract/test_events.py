"""What happens on a node is an event: of the network, of IP's settings, of files; and an agent is alone on its node."""

import asyncio
import base64
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.contract.tables import LINK, brought_to
from tests.lab.namespaces import Place
from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.at_work import only_agent
from wigglenet_operator.kernel.keys import KeyFileTable, generate, load_or_create
from wigglenet_operator.kernel.monitor import watch, watch_files

SECONDS = 10


class Heard:
    """Events as they come."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def __call__(self, _: object = None) -> None:
        self._news.set()

    def __bool__(self) -> bool:
        return self._news.is_set()

    async def of(self, harm: Callable[[], object]) -> None:
        """Return when there was an event after `harm`."""
        self._news.clear()
        harm()
        async with asyncio.timeout(SECONDS):
            await self._news.wait()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "command",
    [
        "ip link add eth9 type veth peer name eth8",
        "ip addr add 192.0.2.1/24 dev lo",
        "ip addr add 2001:db8::1/64 dev lo",
        "ip route add unreachable 10.9.0.0/24",
        "ip -6 route add unreachable fd00:9::/64",
        "sysctl -qw net.ipv4.ip_forward=1",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
        "sysctl -qw net.ipv4.conf.lo.rp_filter=1",
    ],
)
def test_a_change_of_the_network_is_heard(place: Place, command: str) -> None:
    async def main() -> None:
        heard = Heard()
        task = asyncio.create_task(watch(heard))
        await heard.of(lambda: None)  # the first look
        await heard.of(lambda: place.run(*command.split()))
        task.cancel()

    with place.network():
        asyncio.run(main())


def test_a_storm_of_events_that_nobody_reads_in_time_is_heard_and_so_is_what_comes_after_it(place: Place) -> None:
    storm = "\n".join(f"route add unreachable 10.{i // 256}.{i % 256}.0/24" for i in range(40_000))

    async def main() -> None:
        heard = Heard()
        task = asyncio.create_task(watch(heard))
        await heard.of(lambda: None)
        await heard.of(lambda: place.batch(storm))  # blocks this loop meanwhile
        await heard.of(lambda: place.run("ip", "route", "del", "unreachable", "10.0.0.0/24"))
        assert not task.done()
        task.cancel()

    with place.network():
        asyncio.run(main())


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_text("changed"),
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("other")),
        lambda path: path.chmod(0o644),
        lambda path: path.with_name("new").write_text(""),
    ],
    ids=["written", "removed", "renamed", "opened to all", "another one"],
)
def test_a_change_of_a_file_is_heard(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    file.chmod(0o600)

    async def main() -> None:
        heard = Heard()
        task = asyncio.create_task(watch_files([tmp_path / "missing", tmp_path], heard))
        await asyncio.sleep(0)  # it watches from its first step on
        await heard.of(lambda: harm(file))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


LIMITED = """
import asyncio, resource
from pathlib import Path
from wigglenet_operator.kernel.monitor import watch_files
async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) - 1,) * 2)
    await watch_files([Path("/tmp")], lambda: None)
asyncio.run(main())
"""


def test_without_inotify_the_agent_lives_and_says_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)

    assert "no inotify (Too many open files)" in done.stderr
    assert "raise fs.inotify.max_user_instances" in done.stderr


def test_a_directory_that_is_made_later_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wigglenet_operator.kernel.monitor.LOOK_SECONDS", 0.01)
    directory = tmp_path / "later"

    async def main() -> None:
        heard = Heard()
        task = asyncio.create_task(watch_files([directory], heard))
        await asyncio.sleep(0)
        directory.mkdir()
        async with asyncio.timeout(SECONDS):
            while not heard:
                (directory / "file").write_text("x")
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(main())


HELD = f"""
import sys
from wigglenet_operator.kernel.at_work import only_agent
alone = only_agent({LINK!r})
print("mine", flush=True)
sys.stdin.read()
"""


def test_of_two_agents_of_a_link_the_second_refuses_until_the_first_is_gone_however_it_went(place: Place) -> None:
    first = subprocess.Popen(place.argv(sys.executable, "-c", HELD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert first.stdin
    assert first.stdout.readline() == "mine\n"
    with place.network():
        with pytest.raises(KernelError, match=f"another agent serves link {LINK} on this node; end one of the two"):
            only_agent(LINK)
        only_agent("other").close()
        first.stdin.close()
        first.wait(SECONDS)
        only_agent(LINK).close()
    first.stdout.close()


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("no key"), lambda path: path.write_bytes(b"")])
def test_a_key_file_that_somebody_took_or_spoilt_is_back_and_what_was_there_is_kept(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    path = tmp_path / "etc/private.key"
    key = load_or_create(path)
    table = KeyFileTable(path, key)
    wanted = {str(path): key.public}

    async def main() -> None:
        assert await table.observe() == wanted
        harm(path)
        assert await table.observe() == {}
        await brought_to(table, wanted)
        assert await table.observe() == wanted

    asyncio.run(main())
    assert load_or_create(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert {p.read_text() for p in path.parent.iterdir() if "corrupt" in p.name} <= {"no key", ""}


def test_another_key_in_the_file_is_seen_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "private.key"
    table, other = KeyFileTable(path, load_or_create(path)), generate()
    path.write_text(base64.b64encode(other.raw).decode())

    assert asyncio.run(table.observe()) == {str(path): other.public}
    asyncio.run(brought_to(table, {str(path): other.public}))
    assert load_or_create(path) == other


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "private.key"
    key = load_or_create(path)
    path.unlink()
    path.mkdir()

    table = KeyFileTable(path, key)
    with pytest.raises(KernelError, match=f"read key file {path}: Is a directory"):
        asyncio.run(table.observe())
    assert table.stored is None
