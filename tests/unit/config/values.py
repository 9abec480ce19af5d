"""Values of settings for the tests of the configuration, and how the tests set them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config import ConfigError, Problem, Settings, load

URL = "https://vb365.example.com:4443"
KEY = base64.urlsafe_b64encode(bytes(32)).decode()
SIGNING = base64.b64encode(b"c4nary of thirty-two random byte").decode()
NEWER_KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
Written = Callable[[str], Path]


def set_to(name: str, value: str) -> Settings:
    """The settings with one of them from the environment."""
    variable = "VB365_PROXY_" + name.upper().replace(".", "__")
    return load(None, {"upstream.url": URL}, {variable: value})


def value_of(settings: Settings, name: str) -> object:
    section, key = name.split(".")
    value: object = getattr(getattr(settings, section), key)
    return value


def problems_of(
    flags: dict[str, str], environ: dict[str, str] | None = None, toml: Path | None = None
) -> list[Problem]:
    with pytest.raises(ConfigError) as refused:
        load(toml, flags, environ or {})
    return refused.value.problems


def problem_with(name: str, value: str) -> Problem:
    """The one problem of a value in the environment."""
    with pytest.raises(ConfigError) as refused:
        set_to(name, value)
    (problem,) = refused.value.problems
    return problem
