"""The configuration (CONTRACT §15): `load` returns immutable `Settings`."""

from proxy.config.loading import (
    FLAGS,
    ConfigError,
    Problem,
    format_problems,
    load,
    logs_json,
)
from proxy.config.settings import Settings
from proxy.config.startup import startup_problems

__all__ = [
    "FLAGS",
    "ConfigError",
    "Problem",
    "Settings",
    "format_problems",
    "load",
    "logs_json",
    "startup_problems",
]
