"""Files of the node: the key is never lost, the CNI file never half there, kernel settings in the right order."""

import asyncio
import base64
import os
from pathlib import Path

import pytest

from tests.builders import nets
from wigglenet_operator.errors import ConfigError, KernelError
from wigglenet_operator.kernel.cni_file import CniFileTable, leased
from wigglenet_operator.kernel.files import OwnFiles, replace
from wigglenet_operator.kernel.former_sysctls import FormerSysctls
from wigglenet_operator.kernel.keys import PrivateKey, load_or_create
from wigglenet_operator.kernel.pod_file import LARGEST, MOST, PodFile
from wigglenet_operator.kernel.sysctls import SysctlTable, ip_versions
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.facts import Offer


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new/private.key"
    key = load_or_create(path)

    assert load_or_create(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text().strip()) == 44
    assert [p.name for p in path.parent.iterdir()] == ["private.key"]


def test_the_public_key_is_the_one_of_rfc_7748() -> None:
    alice = PrivateKey(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))

    assert base64.b64decode(alice.public).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


@pytest.mark.parametrize("content", [b"", b"short", b"AAAA", b"\xff\xfe"])
def test_a_file_without_a_key_is_set_aside_and_not_lost(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "private.key"
    path.write_bytes(content)
    load_or_create(path)
    path.write_bytes(content)
    load_or_create(path)

    assert (tmp_path / "private.key.corrupt-1").read_bytes() == content
    assert (tmp_path / "private.key.corrupt-2").read_bytes() == content


def test_a_key_that_others_can_read_is_tightened(tmp_path: Path) -> None:
    path = tmp_path / "private.key"
    key = load_or_create(path)
    path.chmod(0o644)

    assert load_or_create(path) == key
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_path_that_cannot_be_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="make it a file in a directory that root may write"):
        load_or_create(tmp_path / "file/private.key")


def test_a_key_path_that_is_a_directory_or_leads_nowhere_is_refused_and_untouched(tmp_path: Path) -> None:
    directory, dangling = tmp_path / "directory", tmp_path / "dangling"
    directory.mkdir(mode=0o755)
    dangling.symlink_to(tmp_path / "nowhere")

    for path in (directory, dangling):
        with pytest.raises(ConfigError, match="is no file"):
            load_or_create(path)
    assert directory.stat().st_mode & 0o777 == 0o755
    assert dangling.is_symlink()


def test_a_left_over_of_a_crash_does_not_open_the_key_to_others(tmp_path: Path) -> None:
    left = tmp_path / ".private.key.new"
    left.write_text("half")
    left.chmod(0o644)
    load_or_create(tmp_path / "private.key")

    assert (tmp_path / "private.key").stat().st_mode & 0o777 == 0o600


def test_a_key_of_zeros_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "private.key"
    path.write_text(base64.b64encode(bytes(32)).decode())

    assert any(load_or_create(path).raw)


def test_a_key_shows_in_no_repr(tmp_path: Path) -> None:
    key = load_or_create(tmp_path / "private.key")

    assert key.raw.hex() not in repr(key)
    assert base64.b64encode(key.raw).decode() not in repr(key)


def cni(path: Path, text: str | None) -> None:
    async def bring() -> None:
        table = CniFileTable(path)
        desired = {} if text is None else {str(path): text}
        await table.apply(diff(await table.observe(), desired))
        assert await table.observe() == desired

    asyncio.run(bring())


def test_the_cni_file_is_replaced_and_removed_and_its_neighbours_stay(tmp_path: Path) -> None:
    path = tmp_path / "net.d/10-wigglenet.conflist"
    cni(path, "one")
    (path.parent / "99-loopback.conf").write_text("theirs")
    cni(path, "two")
    cni(path, None)

    assert [p.name for p in path.parent.iterdir()] == ["99-loopback.conf"]


def test_configurations_that_the_runtime_takes_first_are_found(tmp_path: Path) -> None:
    table = CniFileTable(tmp_path / "net.d/10-wigglenet.conflist")
    assert table.earlier() == frozenset()

    (tmp_path / "net.d/05-directory.conf").mkdir(parents=True)
    for name in ("05-other.conf", "10-kindnet.conflist", "00.json", "00-notes.txt", ".05.conf.new", "10-wigglenet.conflist"):
        (tmp_path / "net.d" / name).write_text("{}")
    (tmp_path / "net.d/99-loopback.conf").write_text("{}")

    earlier = {str(tmp_path / "net.d" / name) for name in ("05-other.conf", "10-kindnet.conflist", "00.json")}
    assert table.earlier() == earlier


def test_a_configuration_of_any_name_can_be_told_to_the_api_server(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"00-\xff.conf")).touch()
    (found,) = CniFileTable(tmp_path / "10-wigglenet.conflist").earlier()

    assert found.encode().decode().endswith("/00-\N{REPLACEMENT CHARACTER}.conf")


def test_a_cni_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.d").write_text("a file")

    with pytest.raises(KernelError, match=r"net\.d"):
        cni(tmp_path / "net.d/10-wigglenet.conflist", "one")


def test_a_cni_file_of_an_earlier_boot_is_removed_once(tmp_path: Path) -> None:
    path, marker = tmp_path / "10-wigglenet.conflist", tmp_path / "run/boot"
    path.write_text("old")
    assert CniFileTable(path).forget_last_boot(marker)
    assert not path.exists()

    path.write_text("of this boot")
    assert not CniFileTable(path).forget_last_boot(marker)
    assert path.exists()


@pytest.mark.parametrize("kind", ["directory", "bytes", "no place"])
def test_a_marker_that_tells_nothing_leaves_no_cni_file_of_who_knows_which_boot(tmp_path: Path, kind: str) -> None:
    path, marker = tmp_path / "10-wigglenet.conflist", tmp_path / "run/boot"
    if kind == "no place":
        marker.parent.touch()
    else:
        marker.parent.mkdir()
        marker.mkdir() if kind == "directory" else marker.write_bytes(b"\xff")
    path.write_text("old")

    assert CniFileTable(path).forget_last_boot(marker)
    assert not path.exists()


FORWARDING = "net/ipv6/conf/all/forwarding"


def forget(_: object) -> None:
    """What settings were concerns another test."""


def proc(tmp_path: Path, *, accept_ra: str, sys: str = "proc/sys") -> Path:
    settings = {FORWARDING: "0", "net/ipv4/ip_forward": "0", "net/ipv6/conf/eth0/accept_ra": accept_ra}
    for name, value in settings.items():
        (tmp_path / sys / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / sys / name).write_text(f"{value}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("accept_ra", "links", "seen"), [("1", ["eth0"], "1"), ("1", [], None), ("0", ["eth0"], None), ("2", ["eth0"], "2")]
)
def test_accept_ra_is_seen_where_a_default_route_was_advertised_and_the_kernel_listens(
    tmp_path: Path, accept_ra: str, links: list[str], seen: str | None
) -> None:
    table = SysctlTable([FORWARDING], lambda: links, forget, proc(tmp_path, accept_ra=accept_ra))

    assert asyncio.run(table.observe()).get("net/ipv6/conf/eth0/accept_ra") == seen


def test_a_container_writes_the_nodes_settings_where_it_has_them(tmp_path: Path) -> None:
    """Its own /proc/sys is mounted read-only."""
    root = proc(tmp_path, accept_ra="1", sys="host/proc/sys")

    async def forward() -> None:
        table = SysctlTable([FORWARDING], list, forget, root)
        await table.apply(diff(await table.observe(), {FORWARDING: "1"}))

    asyncio.run(forward())
    assert (root / "host/proc/sys" / FORWARDING).read_text() == "1"
    assert not (root / "proc/sys").exists()


def test_a_setting_of_a_missing_link_is_not_there_and_names_itself_when_written(tmp_path: Path) -> None:
    async def write() -> None:
        table = SysctlTable(["net/ipv4/conf/wigglenet/rp_filter"], list, forget, tmp_path)
        assert await table.observe() == {}
        with pytest.raises(KernelError, match="set net/ipv4/conf/wigglenet/rp_filter to 2: No such file"):
            await table.apply(diff({}, {"net/ipv4/conf/wigglenet/rp_filter": "2"}))

    asyncio.run(write())


def test_pod_networks_are_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "pods").write_text("# of node a\n\n 10.9.0.0/24 \n10.8.0.7/24 # the other\r\nfd00:9::/64")

    assert PodFile(tmp_path / "pods").offer().networks == nets("10.9.0.0/24 10.8.0.0/24 fd00:9::/64")
    assert PodFile(tmp_path / "pods").offer().problem is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"10.9.0.0/24\n\n10.9.0.1\n", "line 3, '10.9.0.1': it has no prefix length"),
        (b"10.9.0.0/33\n", "line 1, '10.9.0.0/33': "),
        (b"10.9.0.0/24 fd00::/64\n", "line 1, "),
        (b"fd00::%1/64", "line 1, 'fd00::%1/64': it has a zone"),
        (b"\xff\xfe\x00", "line 1, "),
        (b"#" * (LARGEST + 1), "it has more than 65536 bytes"),
        (b"\n".join(b"10.9.%d.0/28" % i for i in range(MOST + 1)), "it has 129 networks, and 128 at most"),
    ],
)
def test_a_file_with_anything_else_offers_nothing_and_says_where(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "pods"
    path.write_bytes(content)
    offer = PodFile(path).offer()

    assert not offer.networks
    assert offer.problem
    assert offer.problem.subject == f"file {path}"
    assert reason in offer.problem.text


def test_a_long_line_is_no_long_problem(tmp_path: Path) -> None:
    (tmp_path / "pods").write_text("10.9.0.0/" + "7" * 60_000)
    problem = PodFile(tmp_path / "pods").offer().problem

    assert problem
    assert len(problem.text) < 500


def test_what_is_no_file_offers_nothing_and_nobody_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")

    opened = len([*Path("/proc/self/fd").iterdir()])
    for name, reason in (("missing", "No such file"), ("directory", "s a directory"), ("pipe", "it is no file")):
        path = tmp_path / name
        problem = PodFile(path).offer().problem
        assert problem
        assert reason in problem.text
    assert len([*Path("/proc/self/fd").iterdir()]) == opened


def test_an_empty_file_offers_nothing_and_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "pods").write_text("# to come\n")

    assert PodFile(tmp_path / "pods").offer() == Offer()


@pytest.mark.parametrize(
    ("every", "new", "expected"), [("0", "0", {4, 6}), ("1", "0", {4}), ("0", "1", {4}), (None, None, {4})]
)
def test_a_new_link_has_ipv6_where_nothing_disables_it(
    tmp_path: Path, every: str | None, new: str | None, expected: set[int]
) -> None:
    for name, value in (("all", every), ("default", new)):
        if value:
            path = tmp_path / f"proc/sys/net/ipv6/conf/{name}/disable_ipv6"
            path.parent.mkdir(parents=True)
            path.write_text(f"{value}\n")

    assert ip_versions(tmp_path, of="default") == expected
    assert ip_versions(tmp_path) == ({4, 6} if every == "0" else {4}), "links that are there keep it"


def test_the_own_files_that_are_there_go_and_a_directory_only_if_nothing_else_is_in_it(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    for path in (shared / "ours", shared / "theirs", own / "ours", own / "tree/leaf"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (own / "link").symlink_to(shared)
    gone = [shared / "ours", own / "ours", own / "tree", own / "link", own / "never"]

    async def remove() -> None:
        files = OwnFiles(gone, homes=[shared, own, tmp_path / "nowhere"])
        assert list(await files.observe()) == [*map(str, [*gone[:-1], own])]
        await files.apply(diff(await files.observe(), {}))
        assert await files.observe() == {}

    asyncio.run(remove())
    assert [*tmp_path.rglob("*")] == [shared, shared / "theirs"]


def test_files_that_cannot_be_removed_are_named_and_the_others_go() -> None:
    async def remove() -> None:
        with pytest.raises(KernelError, match=r"^remove /proc/self/stat: Operation not permitted$"):
            await OwnFiles([]).apply(diff({"/proc/self/stat": None, "/nowhere/at/all": None}, {}))

    asyncio.run(remove())


def test_leases_are_told_by_pod(tmp_path: Path) -> None:
    written = {"10.1.0.2": "one\r\neth0", "fd00::2": "one\neth0", "10.1.0.3": "two", "lock": "", "last_reserved_ip.0": "x"}
    for name, text in written.items():
        (tmp_path / name).write_text(text)

    assert leased(tmp_path) == {"one": ["10.1.0.2", "fd00::2"], "two": ["10.1.0.3"]}
    assert leased(tmp_path / "nowhere") == {}


def former(tmp_path: Path, **written: str) -> FormerSysctls:
    """Of a node with these settings now."""
    for name, value in written.items():
        path = tmp_path / "proc/sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return FormerSysctls(tmp_path / "run/sysctls", link="wigglenet", root=tmp_path)


def test_a_setting_is_as_before_unless_somebody_else_has_set_it(tmp_path: Path) -> None:
    names = ("net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/eth1/accept_ra", "net/ipv4/conf/wigglenet/rp_filter")
    settings = former(tmp_path, **{name.replace("/", "__"): "1" for name in names})
    settings.remember(dict.fromkeys(names, "2"))
    for value in ("2", "0"):
        former(tmp_path, **{names[0].replace("/", "__"): "2", names[1].replace("/", "__"): value})
        settings.remember(dict.fromkeys(names, "2"))  # of the first time it is

    actual = asyncio.run(settings.observe())
    assert actual == {names[0]: "2", names[1]: "0"}, "what belongs to our link goes with it"
    assert settings.desired() == {names[0]: "1", names[1]: "0"}
    assert settings.foreign() == {names[1]: "0"}


def test_what_cannot_be_remembered_is_logged_and_what_cannot_be_read_is_never_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/sysctls").write_text("[1]")
    settings = former(tmp_path, net__ipv4__ip_forward="0")
    settings.remember({"net/ipv4/ip_forward": "1"})

    assert "cannot be remembered" in caplog.text
    assert (tmp_path / "run/sysctls").read_text() == "[1]"
    with pytest.raises(KernelError, match=r"run/sysctls, which has what settings were.*remove it: settings stay"):
        asyncio.run(settings.observe())


def test_the_name_of_a_replaced_file_outlives_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink())))
    replace(tmp_path / "file", b"new", mode=0o600)

    assert synced == [str(tmp_path / ".file.new"), str(tmp_path)], "the content first, then the directory"
