"""The base of all value types: how a setting is parsed, shown and described (CONTRACT §15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from proxy.core.text import decoded

#: Shown in place of a secret.
MASK = "********"
TEXT_SCHEMA = {"type": "string"}


def invalid(problem: str, hint: str) -> PydanticCustomError:
    """Return the error of a value: what is wrong with it and how to fix it."""
    return PydanticCustomError("setting", "{problem}", {"problem": problem, "hint": hint})


@dataclass(frozen=True, eq=False)
class Syntax:
    """The syntax of a type of value, as a pydantic annotation.

    `parse` converts what a file, the environment or a flag holds, `show` converts it back, and
    `schema` is its JSON Schema. Values that code passes are not parsed.
    """

    parse: Callable[[Any], Any]
    show: Callable[[Any], Any]
    schema: dict[str, Any]

    def _parse(self, value: Any, info: ValidationInfo) -> Any:
        return self.parse(value) if info.context else value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Parse before the type is checked; show when the settings are serialised as JSON."""
        show = core_schema.plain_serializer_function_ser_schema(self.show, when_used="json")
        return core_schema.with_info_before_validator_function(
            self._parse, handler(source), serialization=show
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema of the value as it is written, not of the parsed one."""
        return self.schema


def text(value: Any) -> str:
    """Return a string without the white space around it. Raises ValueError for other types."""
    if not isinstance(value, str):
        raise invalid("is not text", 'write it in quotes: "…"')
    return value.strip()


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file. Raises OSError and `NotUtf8`."""
    return decoded(path.read_bytes())
