"""The configuration (CONTRACT §15): `load` makes frozen `Settings` of flags, environment, secret
files and a file.
"""

from proxy.config.loading import FLAGS, ConfigError, Problem, listed, load, unavailable
from proxy.config.settings import Settings

__all__ = ["FLAGS", "ConfigError", "Problem", "Settings", "listed", "load", "unavailable"]
