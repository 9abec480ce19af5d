"""The checks of the machine that runs the proxy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy import logs
from proxy.cli.diagnosis.findings import Finding, failed, ok
from proxy.cli.diagnosis.listening import port_findings
from proxy.cli.diagnosis.storage import secret_findings, storage_findings, store_findings
from proxy.cli.diagnosis.upstream import upstream_findings
from proxy.config import ConfigError, Problem, Settings, load
from proxy.config.network import Upstream
from proxy.parts.start_checks import start_problems
from proxy.parts.store_addresses import CHECKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings, their problems, and the names of the sections that are valid: the others have
    their defaults.
    """

    settings: Settings
    problems: Sequence[Problem]
    valid: frozenset[str]
    file: Path | None

    @classmethod
    def of(cls, file: Path | None, flags: Mapping[str, str | None]) -> Configuration:
        """Load what is valid of the settings."""
        try:
            settings = load(file, flags, os.environ, CHECKS)
            problems: list[Problem] = []
            valid = frozenset(Settings.model_fields)
        except ConfigError as error:
            sections = {"upstream": Upstream(url="http://localhost"), **error.valid}
            settings = Settings(**sections)  # type: ignore[arg-type]  # each has its own type
            problems, valid = error.problems, frozenset(error.valid)
        found = [each for each in start_problems(settings) if each.key.partition(".")[0] in valid]
        return cls(settings=settings, problems=[*problems, *found], valid=valid, file=file)


async def examine(configuration: Configuration) -> list[Finding]:
    """Try everything at once that `serve` needs, as far as the settings for it are valid."""
    logs.configure("console", "critical")  # the findings are the output
    settings, valid = configuration.settings, configuration.valid
    checks: tuple[tuple[set[str], AsyncIterator[Finding]], ...] = (
        ({"upstream"}, upstream_findings(settings, listens="listen" in valid)),
        ({"listen", "admin", "public"}, port_findings(settings)),
        ({"storage"}, storage_findings(settings)),
        ({"storage", "cluster"}, store_findings(settings)),
        (set(), secret_findings(settings, configuration.file)),
    )
    wanted = [_all(found) for needed, found in checks if needed <= valid]
    found = await asyncio.gather(*wanted)
    return [*_configured(configuration), *(each for part in found for each in part)]


def _configured(configuration: Configuration) -> list[Finding]:
    check = "configuration"
    found = [
        failed(check, each.source, f"{each.key} {each.problem}".strip(), each.hint)
        for each in configuration.problems
    ]
    file = configuration.file
    return found or [ok(check, check, "valid" if file is None else f"{file} is valid")]


async def _all(findings: AsyncIterator[Finding]) -> list[Finding]:
    return [each async for each in findings]
