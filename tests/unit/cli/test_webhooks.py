"""`webhooks test` on the command line (CONTRACT §17)."""

from __future__ import annotations

import os
import sys

from standardwebhooks import Webhook

from proxy.core.outbox import endpoint_key
from tests.support.process import ROOT
from tests.support.programs import ended
from tests.support.receiver import SECRET, receiving


async def run(urls: str, *, secret: str = SECRET) -> tuple[int, str, str]:
    """Exit code, output and errors of the command."""
    settings = {
        "VB365_PROXY_UPSTREAM__URL": "http://127.0.0.1:1",
        "VB365_PROXY_WEBHOOKS__URLS": urls,
        "VB365_PROXY_WEBHOOKS__SECRETS": secret,
    }
    command = (sys.executable, "-m", "proxy", "webhooks", "test")
    done = await ended(*command, code=None, env=os.environ | settings, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


async def test_17_a_signed_ping_reaches_every_receiver() -> None:
    async with receiving() as one, receiving() as two:
        code, output, errors = await run(f"{one.url}?sig=c4nary,{two.url}")
        assert (code, errors) == (0, "")
        for line, url in zip(output.splitlines(), (f"{one.url}?sig=c4nary", two.url), strict=True):
            place = f"{url.partition('/hook')[0]} ({endpoint_key(url)})"
            assert line.rpartition(", ")[0] == f"{place}: 204 No Content"
        for receiver in (one, two):
            (post,) = receiver.posts
            assert Webhook(SECRET).verify(post.body, dict(post.headers)) == post.json
            assert (post.type, post.json["data"]) == ("webhook.test", {})


async def test_17_a_receiver_that_fails_is_named_and_the_exit_code_is_1() -> None:
    async with receiving() as gone:
        pass
    async with receiving() as good, receiving() as bad:
        bad.always(500)
        code, output, _ = await run(f"{good.url},{bad.url},{gone.url}")
    assert code == 1
    accepted, refused, away = output.splitlines()
    assert "204 No Content" in accepted
    assert "500 Internal Server Error" in refused
    assert "cannot connect" in away


async def test_17_without_receivers_or_with_a_bad_secret_nothing_is_sent() -> None:
    async with receiving() as receiver:
        for urls, secret in (("", SECRET), (receiver.url, "whsec_c4nary")):
            code, output, errors = await run(urls, secret=secret)
            assert (code, output) == (2, "")
            assert "webhooks." in errors
            assert "c4nary" not in errors
        assert receiver.posts == []
