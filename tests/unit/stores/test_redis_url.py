"""The address of a shared job store (§18)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.stores.redis_jobs.url import BadUrl, Location, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", {"hosts": (("host", 6379),)}),
        ("redis://host:7000/2", {"hosts": (("host", 7000),), "db": 2}),
        ("redis://host?db=3", {"hosts": (("host", 6379),), "db": 3}),
        ("redis://[::1]:7000/", {"hosts": (("::1", 7000),)}),
        (
            "redis://user:p%40ss%2F@host/0",
            {"hosts": (("host", 6379),), "user": "user", "password": "p@ss/"},
        ),
        ("redis://:secret@host", {"hosts": (("host", 6379),), "password": "secret"}),
        ("rediss://host", {"hosts": (("host", 6379),), "tls": True}),
        (
            "rediss://host?ca_file=/a&cert_file=/b&key_file=/c",
            {
                "hosts": (("host", 6379),),
                "tls": True,
                "files": {"ca_file": Path("/a"), "cert_file": Path("/b"), "key_file": Path("/c")},
            },
        ),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock"}),
        (
            "unix://:secret@/run/redis%20.sock?db=4&prefix=test",
            {"path": "/run/redis .sock", "db": 4, "password": "secret", "prefix": "test:"},
        ),
        (
            "redis+sentinel://one,two:7000/main/5",
            {"hosts": (("one", 26379), ("two", 7000)), "service": "main", "db": 5},
        ),
        (
            "rediss+sentinel://u:p@one/main?prefix=a:b",
            {
                "hosts": (("one", 26379),),
                "service": "main",
                "user": "u",
                "password": "p",
                "prefix": "a:b:",
                "tls": True,
            },
        ),
        ("redis://host?prefix=a:", {"hosts": (("host", 6379),), "prefix": "a:"}),
    ],
)
def test_a_url_names_the_store(url: str, expected: dict[str, Any]) -> None:
    assert parse_url(url) == Location(**expected)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://host", "has the scheme 'http'"),
        ("redis://", "has the host ''"),
        ("redis://host:0", "has the host 'host:0'"),
        ("redis://host:99999", "has the host 'host:99999'"),
        ("redis://[::1", "is not a URL"),
        ("redis://::1/0", "has the host '::1'"),
        ("redis://a,b/0", "names several hosts"),
        ("redis://host/0/1", "has the path '/0/1'"),
        ("redis://host/jobs", "has the database 'jobs'"),
        ("redis://host?db=x", "has the database 'x'"),
        ("redis://host/1?db=2", "names the database twice"),
        ("redis://host/0?prefx=a", "has the parameter 'prefx'"),
        ("redis://host?prefix=a&prefix=b", "has a parameter twice"),
        ("redis://host?prefix=", "has the prefix ''"),
        ("redis://host?prefix=a*", "has the prefix 'a*'"),
        ("redis://host?prefix=:", "has the prefix ':'"),
        ("redis://host?ca_file=/a", "has the parameter 'ca_file' without TLS"),
        ("rediss://host?cert_file=/a", "has one of cert_file and key_file"),
        ("redis://user@host", "has a user without a password"),
        ("redis://host/0#x", "has a space, /, ?, # or @ in a wrong place"),
        ("redis://host /0", "has a space, /, ?, # or @ in a wrong place"),
        ("redis+sentinel://one,two", "names no service"),
        ("redis+sentinel://one,/main", "has the host ''"),
        ("unix://redis.sock", "names no socket"),
        ("unix:///", "names no socket"),
    ],
)
def test_a_bad_url_is_refused_with_the_fault_and_the_fix(url: str, fault: str) -> None:
    with pytest.raises(BadUrl) as caught:
        parse_url(url)
    message = str(caught.value)
    assert message.startswith(f"storage.jobs {fault}")
    assert ": " in message.removeprefix(f"storage.jobs {fault}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:secret@host/2?prefix=p", "redis://host:6379/2"),
        ("rediss://:secret@[::1]", "rediss://[::1]:6379/0"),
        ("unix://u:secret@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis+sentinel://u:secret@a,b/main", "redis+sentinel://a:26379,b:26379/main"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    location = parse_url(url)
    assert str(location) == shown
    assert "secret" not in repr(location)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:secret@host",
        "redis://u:secret@ho:st:1",
        "redis://u:sec/ret@host",
        "redis://u:sec?ret@host",
        "redis://u:sec#ret@host",
        "redis://u:sec@ret@host:x",
        "redis://u:secret\uff0f@host",
        "redis://u:secret@host/0/1",
        "redis://u:secret@a,b",
        "redis://u:secret@host?x=1",
        "redis://u:secret@[::1",
    ],
)
def test_the_message_of_a_bad_url_has_no_password(url: str) -> None:
    with pytest.raises(BadUrl) as caught:
        parse_url(url)
    assert "sec" not in str(caught.value)
    assert "ret" not in str(caught.value)
