"""The settings of webhooks (CONTRACT §15, §17)."""

from __future__ import annotations

import pytest

from proxy.config import load
from tests.unit.config.values import KEY, SIGNING, URL, problem_with, problems_of


def test_webhooks_need_a_secret() -> None:
    assert (
        "is required"
        in problems_of({"upstream.url": URL, "webhooks.urls": "https://x/hook?a=b"})[0].problem
    )
    both = {
        "upstream.url": URL,
        "webhooks.urls": "https://x/hook?a=b",
        "webhooks.secrets": f"whsec_{SIGNING}",
    }
    assert load(None, both, {}).webhooks.urls == ("https://x/hook?a=b",)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("urls", "https://x,ftp://y", "begins with ftp:"),
        ("urls", "https://x/hook?a#b", "contains a URL with a fragment"),
        ("urls", ",".join(f"https://x{n}" for n in range(7)), "has 7 values"),
        ("events", "export.succeeded,succeeded", "contains 'succeeded', which is no event type"),
        ("secrets", "whsec_AAAA", "is not whsec_ and 24 to 64 bytes in base64"),
        ("secrets", SIGNING, "is not whsec_ and 24 to 64 bytes in base64"),
        ("secrets", "whsec_" + "A" * 43 + "!", "is not whsec_ and 24 to 64 bytes in base64"),
        ("expiring_before", "1", "is not a duration"),
    ],
)
def test_17_a_bad_webhook_setting_is_named_with_its_fix(
    name: str, value: str, problem: str
) -> None:
    """§15: the key, the value and the fix, and nothing is started."""
    found = problem_with(f"webhooks.{name}", value)
    assert found.key == f"webhooks.{name}"
    assert problem in found.problem
    assert found.hint
    assert (f'= "{value}"' in found.problem) == (name != "secrets" and "?" not in value)


def test_17_events_select_and_secrets_rotate() -> None:
    flags = {
        "upstream.url": URL,
        "webhooks.urls": "https://x/a, https://x/b",
        "webhooks.secrets": f"whsec_{SIGNING},whsec_{KEY}",
        "webhooks.events": "export.succeeded,export.failed",
        "webhooks.expiring_before": "2h",
    }
    webhooks = load(None, flags, {}).webhooks
    assert webhooks.urls == ("https://x/a", "https://x/b")
    assert [each.get_secret_value() for each in webhooks.secrets] == [
        f"whsec_{SIGNING}",
        f"whsec_{KEY}",
    ]
    assert webhooks.events == ("export.succeeded", "export.failed")
    assert webhooks.expiring_before == 7200.0
