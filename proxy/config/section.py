"""What all sections of the settings have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

#: The prefix of every environment variable that is a setting.
PREFIX = "VB365_PROXY_"


class Section(BaseModel):
    """A table of the configuration file; immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
