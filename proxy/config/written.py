"""What every kind of value of the configuration is made of: how it is read, shown and refused
(CONTRACT §15).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from proxy.core.text import decoded


def bad(problem: str, hint: str) -> PydanticCustomError:
    """The error of a value: what is wrong with it and how to mend it."""
    return PydanticCustomError("setting", "{problem}", {"problem": problem, "hint": hint})


@dataclass(frozen=True, eq=False)
class Written:
    """A kind of value: `parse` reads what stands outside, `show` writes it again, `schema` tells
    JSON Schema.
    """

    parse: Callable[[Any], Any]
    show: Callable[[Any], Any]
    schema: dict[str, Any]

    def _read(self, value: Any, info: ValidationInfo) -> Any:
        return self.parse(value) if info.context else value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Pydantic's hook: parse before the type is checked, show when the settings are written as
        JSON.
        """
        show = core_schema.plain_serializer_function_ser_schema(self.show, when_used="json")
        return core_schema.with_info_before_validator_function(
            self._read, handler(source), serialization=show
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Pydantic's hook: the value as it is written outside."""
        return self.schema


def text(value: Any) -> str:
    """The value if it is text, without the space around it."""
    if not isinstance(value, str):
        raise bad("is not text", 'write it in quotes: "…"')
    return value.strip()


def read_text(path: Path) -> str:
    """The text of a file that people write. Raises OSError and `NotUtf8`."""
    return decoded(path.read_bytes())
