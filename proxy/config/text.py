"""The configuration as text, all of it made from the settings' own defaults and docstrings, so that
none can drift: the commented file, the effective settings, the JSON Schema, and the tables of the
documentation.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proxy.config.loading import FLAGS
from proxy.config.settings import PREFIX, SECTIONS, Settings

_HEAD = f"""\
# The configuration of vb365-async-proxy: every setting with its default.
# Only upstream.url must be set.
#
# Stronger than this file, in this order: flags of `serve`, environment variables
# ({PREFIX}<SECTION>__<KEY>, for example {PREFIX}EXPORTS__GRACE=0s), secret files of
# the same names. An empty value counts as not set.
# Durations: 250ms 2s 10m 24h 7d. Sizes: 512KiB 16MiB 5GiB.
# `vb365-async-proxy config check` reports every mistake at once.
"""
_BEGIN, _END = "<!-- settings: made by `make docs` -->", "<!-- end of settings -->"


def defaults() -> dict[str, dict[str, Any]]:
    """Every setting's default by section, as it is written outside; None where there is none."""
    sample = Settings.model_validate({"upstream": {"url": ""}}).model_dump(mode="json")
    return {section: dict(values) for section, values in sample.items()}


def _literal(value: Any) -> str:
    return '""' if value is None else json.dumps(value, ensure_ascii=False)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else _literal(value)


def _described(section: str) -> Iterator[tuple[str, str]]:
    """The section's keys, each with its description on one line."""
    for key, field in SECTIONS[section].model_fields.items():
        yield key, " ".join((field.description or "").split())


def _about(section: str) -> str:
    return (SECTIONS[section].__doc__ or "").strip()


def sample() -> str:
    """The commented TOML file with every default: config/proxy.toml, and what `config init`
    writes.
    """
    lines = [_HEAD]
    for section, values in defaults().items():
        lines += [f"# {_about(section)}", f"[{section}]"]
        for key, description in _described(section):
            lines += [*textwrap.wrap(description, 110, initial_indent="# ", subsequent_indent="# ")]
            lines += [f"{key} = {_literal(values[key])}"]
        lines.append("")
    return "\n".join(lines)


def effective(settings: Settings) -> str:
    """The settings as TOML, secrets masked."""
    sections: Mapping[str, Mapping[str, Any]] = settings.model_dump(mode="json")
    tables = (
        [f"[{name}]", *(f"{k} = {_literal(v)}" for k, v in values.items())]
        for name, values in sections.items()
    )
    return "\n\n".join("\n".join(table) for table in tables) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of the TOML file, for editors."""
    properties = {}
    for section, values in defaults().items():
        keys = SECTIONS[section].model_json_schema()["properties"]
        properties[section] = {
            "type": "object",
            "description": _about(section),
            "additionalProperties": False,
            "properties": {key: _property(keys[key], values[key]) for key in values},
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vb365-async-proxy",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _property(made: dict[str, Any], default: Any) -> dict[str, Any]:
    """Pydantic's schema of a key without what TOML does not know (null) and with the default as it
    is written.
    """
    kind = made.get("anyOf", [{}])[0] | made
    kind = {
        name: value for name, value in kind.items() if name not in {"anyOf", "title", "default"}
    }
    return kind if default in (None, "") else kind | {"default": default}


def tables() -> str:
    """The settings as Markdown tables, for docs/configuration.md."""
    lines = []
    for section, values in defaults().items():
        lines += [
            f"### `[{section}]`",
            "",
            _about(section),
            "",
            "| key | default | meaning |",
            "|---|---|---|",
        ]
        for key, description in _described(section):
            default = "" if values[key] in (None, "", []) else f"`{_bare(values[key])}`"
            flag = FLAGS.get(f"{section}.{key}")
            lines.append(
                f"| `{key}` | {default} | {description}{f' Flag `{flag}`.' if flag else ''} |"
            )
        lines.append("")
    return "\n".join(lines)


def filled(document: str) -> str:
    """The Markdown `document` with the tables between its markers made anew."""
    pattern = re.escape(_BEGIN) + ".*?" + re.escape(_END)
    return re.sub(pattern, lambda _: f"{_BEGIN}\n\n{tables()}\n{_END}", document, flags=re.DOTALL)


if __name__ == "__main__":
    toml, markdown = map(Path, sys.argv[1:])
    toml.write_text(sample(), encoding="utf-8")
    markdown.write_text(filled(markdown.read_text(encoding="utf-8")), encoding="utf-8")
