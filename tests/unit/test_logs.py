"""What log lines look like, and that no token is in them."""

import json
import logging
from pathlib import Path

import pytest
from aiohttp import ClientResponseError, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tests.lab.wait import eventually
from wigglenet_operator.logs import JsonFormatter, TextFormatter, report_slow_start, setup

TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6Ii1hIn0.eyJhdWQiOlsiaHR0cHM6Ly9rdWJlIl19.c2lnbmF0dXJl-_x"  # noqa: S105 - nobody's


def refusal() -> ClientResponseError:
    """As aiohttp raises it: its `repr` has the request's headers."""
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {TOKEN}"}))
    return ClientResponseError(RequestInfo(URL("https://a/"), "GET", headers, URL("https://a/")), ())


def record(message: str, *arguments: object) -> logging.LogRecord:
    error = ValueError(repr(refusal()))
    return logging.LogRecord("kopf.x", logging.WARNING, "x.py", 1, message, arguments, (ValueError, error, None))


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_no_token_is_in_a_line_wherever_it_comes_from(formatter: logging.Formatter) -> None:
    assert TOKEN in repr(refusal())
    line = formatter.format(record("failed: %r, %s", refusal(), f"authorization: bearer {TOKEN}"))

    assert TOKEN not in line
    assert not any(part in line for part in TOKEN.split("."))
    assert "Bearer ..." in line
    assert "ValueError" in line


@pytest.mark.parametrize("around", ['{"a": "Bearer %s"}', "\nBearer\n%s\n", "\\Bearer %s\\"])
def test_what_is_left_of_a_line_with_a_token_is_an_object(around: str) -> None:
    line = JsonFormatter().format(record("%s", around % TOKEN))

    assert json.loads(line)["message"] == around % "..."


def test_a_file_gets_an_object_a_line(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        with (tmp_path / "log").open("w") as stream:
            setup(stream)
            logging.getLogger("wigglenet_operator.x").warning("two\nlines")
        (line,) = (tmp_path / "log").read_text().splitlines()
    finally:
        root.handlers[:], root.level = before, level

    assert list(json.loads(line)) == ["time", "level", "logger", "message"]
    assert json.loads(line)["message"] == "two\nlines"


def test_a_start_that_hangs_says_where(caplog: pytest.LogCaptureFixture) -> None:
    def open_the_key_of_a_broken_disk() -> str:
        return eventually(lambda: next((m for m in caplog.messages if "has not started" in m), ""), what="a warning")

    report_slow_start(0.01)

    assert "open_the_key_of_a_broken_disk" in open_the_key_of_a_broken_disk()


def test_a_start_in_time_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    timer = report_slow_start(60)
    timer.cancel()
    timer.join(10)

    assert not timer.is_alive()
    assert not caplog.messages
