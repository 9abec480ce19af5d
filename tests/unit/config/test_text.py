"""The texts that are made of the settings: the sample file, the effective settings, the schema."""

from __future__ import annotations

import tomllib
from pathlib import Path

from proxy.config import load, text
from proxy.config.settings import SECTIONS
from tests.unit.config.values import URL, Written


def test_the_shipped_file_holds_every_setting_with_its_default() -> None:
    """config/proxy.toml cannot drift: it is what `config init` writes, and every value in it is the
    default.
    """
    shipped = Path(__file__).parents[3] / "config" / "proxy.toml"
    assert shipped.read_text(encoding="utf-8") == text.sample_toml(), "run `make docs`"
    tables = tomllib.loads(text.sample_toml())
    assert {s: set(t) for s, t in tables.items()} == {
        s: set(kind.model_fields) for s, kind in SECTIONS.items()
    }
    assert load(shipped, {"upstream.url": URL}, {}) == load(None, {"upstream.url": URL}, {})


def test_every_setting_is_explained() -> None:
    for section, kind in SECTIONS.items():
        assert kind.__doc__, section
        descriptions = text.descriptions(section)
        assert descriptions.keys() == kind.model_fields.keys(), section
        for key, description in descriptions.items():
            assert description.endswith("."), f"{section}.{key}"


def test_a_start_does_not_read_the_explanations() -> None:
    """To parse them takes a twentieth of the time that a start takes."""
    fields = [field for kind in SECTIONS.values() for field in kind.model_fields.values()]
    assert not any(field.description for field in fields)


def test_the_effective_settings_load_again(written: Written) -> None:
    settings = load(
        None,
        {"upstream.url": URL, "exports.grace": "1500ms", "public.trusted_proxies": "10.0.0.0/8"},
        {},
    )
    assert load(written(text.to_toml(settings)), {}, {}) == settings


def test_the_schema_knows_every_key_and_every_default() -> None:
    properties = text.json_schema()["properties"]
    for section, values in text.defaults().items():
        assert properties[section]["additionalProperties"] is False
        for key, default in values.items():
            assert properties[section]["properties"][key].get("default") == (
                default if default != "" else None
            )
            assert "type" in properties[section]["properties"][key]
