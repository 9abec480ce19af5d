"""The log, on stderr or in a file, and the audit file."""

from proxy.logs.direct import DirectEvent as DirectEvent
from proxy.logs.setup import Rotation as Rotation
from proxy.logs.setup import close as close
from proxy.logs.setup import configure as configure
from proxy.logs.setup import set_level as set_level
from proxy.logs.stream import say as say
