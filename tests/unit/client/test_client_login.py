"""The commands `login` and `logout`, and the profiles that they keep (CONTRACT §15)."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.client import profiles
from proxy.client.credentials import Saved
from proxy.client.profiles import Profile
from tests.unit.client.conftest import Stack, commanded
from tests.unit.client.fake_proxy import ID, STATUS, FakeProxy

PASSWORD = {"VB365_PASSWORD": "secret-a"}


def logged_in(stack: Stack, *options: str) -> Profile:
    result = commanded("login", stack.url, "--username", "alice", *options, **PASSWORD)
    assert result.exit_code == 0, result.stderr
    return profiles.load(options[1] if options[:1] == ("--profile",) else "default")


def tokens(stack: Stack) -> str:
    """What must never be printed."""
    return profiles.load("default").access_token


def test_after_a_login_commands_need_neither_address_nor_token(stack: Stack) -> None:
    saved = logged_in(stack)
    assert (saved.url, saved.username, saved.api) == (stack.url, "alice", "v8")
    result = commanded("jobs", "list", "--json")
    assert (result.exit_code, json.loads(result.stdout)["results"]) == (0, [])


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows has no file modes: that of a profile is not tested there",
)
def test_a_profile_is_readable_by_its_user_only(stack: Stack) -> None:
    logged_in(stack)
    path = profiles.directory() / "default.json"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "secret-a" not in path.read_text(encoding="utf-8")
    path.chmod(0o644)
    result = commanded("jobs", "list")
    assert (result.exit_code, f"chmod 600 {path}" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "stdin", "env"),
    [
        (("--password-stdin",), "secret-a\n", {}),
        ((), "secret-a\n", {}),
        ((), None, PASSWORD),
        (("--password-file", "password"), None, {}),
    ],
)
def test_the_password_comes_from_stdin_a_prompt_the_environment_or_a_file(
    stack: Stack, here: Path, options: tuple[str, ...], stdin: str | None, env: dict[str, str]
) -> None:
    (here / "password").write_text("secret-a\n", encoding="utf-8")
    result = commanded("login", stack.url, "--username", "alice", *options, stdin=stdin, **env)
    assert result.exit_code == 0, result.stderr
    assert "secret-a" not in result.output
    assert tokens(stack) not in result.output


@pytest.mark.parametrize("option", ["--password", "--token"])
def test_a_secret_on_the_command_line_is_rejected(fake: FakeProxy, option: str) -> None:
    """Other users can read it there; the environment is the way."""
    result = commanded("jobs", "list", option, "s3cret", VB365_URL=fake.url)
    assert (result.exit_code, fake.seen) == (2, [])
    assert f"set VB365_{option[2:].upper()}" in result.stderr
    assert "s3cret" not in result.stderr


def test_a_wrong_password_keeps_the_profile_as_it_was(stack: Stack) -> None:
    before = logged_in(stack)
    result = commanded("login", VB365_PASSWORD="wrong")
    assert (result.exit_code, "The user name or password is incorrect" in result.stderr) == (
        1,
        True,
    )
    assert profiles.load("default") == before


def test_the_newest_api_version_of_the_server_is_found(stack: Stack) -> None:
    """A version that VB365 does not have is 404 (docs/upstream.md §3)."""
    stack.simulator.fault(path="/v8/ServiceInstance", count=1, status=404)
    assert logged_in(stack).api == "v7"
    assert commanded("jobs", "list").exit_code == 0


def test_a_login_at_vb365_itself_is_refused(stack: Stack) -> None:
    result = commanded("login", stack.simulator.url, "--username", "alice", **PASSWORD)
    assert (result.exit_code, "is VB365 itself, not the proxy" in result.stderr) == (2, True)
    assert profiles.names() == []


def test_an_expired_token_is_renewed_and_kept(stack: Stack) -> None:
    """Before it is sent if it says so, else after the 401; the refresh token too is replaced."""
    before = logged_in(stack)
    profiles.save(Profile(**{**vars_of(before), "expires": time.time() + 5}))
    assert commanded("jobs", "list").exit_code == 0
    renewed = profiles.load("default")
    assert renewed.access_token != before.access_token
    assert renewed.refresh_token != before.refresh_token
    stack.simulator.tokens.expire(user="alice")
    result = commanded("export", "mailbox", "nobody")
    assert "There is no mailbox" in result.stderr
    assert profiles.load("default").access_token != renewed.access_token


def vars_of(profile: Profile) -> dict[str, Any]:
    return {name: getattr(profile, name) for name in Profile.__slots__}


def test_a_login_that_has_expired_says_how_to_renew_it(stack: Stack) -> None:
    """The refresh token was revoked; with the password in the environment, it is used instead."""
    saved = logged_in(stack, "--profile", "contoso")
    profiles.save(Profile(**{**vars_of(saved), "refresh_token": "gone", "expires": 0}))
    result = commanded("jobs", "list", "--profile", "contoso")
    assert result.exit_code == 1
    assert (
        f"has expired. Log in again: vb365-async-proxy login {stack.url} --profile contoso\n"
        in result.stderr
    )
    assert commanded("jobs", "list", "--profile", "contoso", **PASSWORD).exit_code == 0


def test_a_token_that_another_command_has_renewed_is_used(stack: Stack) -> None:
    """VB365 accepts a refresh token once."""
    old = logged_in(stack)
    new = logged_in(stack)

    async def renewed() -> str:
        credentials = Saved(old)
        http: Any = None  # nothing is sent
        assert await credentials.renew(http, old.access_token)
        return await credentials.token(http)

    assert asyncio.run(renewed()) == new.access_token


def test_a_profile_is_used_for_its_own_server_only(stack: Stack, fake: FakeProxy) -> None:
    """Its token goes to no other address, whichever the options or a job's URL name."""
    saved = logged_in(stack)
    for line in (
        ("jobs", "list", "--url", fake.url),
        ("jobs", "show", f"{fake.url}{STATUS}"),
        ("jobs", "list", "--url", fake.url, "--profile", "default"),
    ):
        result = commanded(*line)
        assert result.exit_code == 2
        assert saved.access_token not in result.output
    assert fake.seen == []


def test_the_profile_of_an_address_is_found(stack: Stack) -> None:
    """A job's URL, or --url, needs no --profile."""
    logged_in(stack, "--profile", "contoso")
    result = commanded("jobs", "show", f"{stack.url}{STATUS}")
    assert (result.exit_code, "The server responded with 404" in result.stderr) == (1, True)
    assert commanded("jobs", "list", "--url", f"{stack.url}/").exit_code == 0


@pytest.mark.parametrize("name", ["../x", "a/b", "CON", "", ".hidden", "nul.txt", "x" * 65])
def test_a_name_of_a_profile_is_a_name_of_a_file(stack: Stack, name: str) -> None:
    result = commanded("login", stack.url, "--username", "a", "--profile", name, **PASSWORD)
    assert (result.exit_code, "is not a name of" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 5000,
        '{"format": 1}',
        '{"format": 1, "url": 3}',
        '{"format": 1, "url": "http://proxy:99999"}',
        "\xff",
    ],
)
def test_a_damaged_profile_is_reported_with_the_fix(stack: Stack, text: str) -> None:
    saved = profiles.save(Profile(name="default", url=stack.url))
    saved.write_text(text, encoding="latin-1")
    result = commanded("jobs", "list")
    assert result.exit_code == 2
    assert result.stderr.startswith(str(saved))
    assert result.stderr.endswith(": vb365-async-proxy login URL\n")
    assert logged_in(stack).url == stack.url


def test_a_logout_revokes_the_tokens_and_deletes_the_profile(stack: Stack) -> None:
    saved = logged_in(stack)
    assert commanded("logout").exit_code == 0
    assert profiles.names() == []
    assert stack.simulator.tokens.user(f"Bearer {saved.access_token}", {}) is None
    result = commanded("jobs", "show", ID)
    assert (result.exit_code, "vb365-async-proxy login URL" in result.stderr) == (2, True)


def test_a_logout_deletes_the_profile_of_a_server_that_is_away(stack: Stack) -> None:
    profiles.save(Profile(name="default", url="http://127.0.0.1:9", access_token="t"))
    result = commanded("logout")
    assert (result.exit_code, profiles.names()) == (0, [])
    assert "could not be revoked" in result.stderr
