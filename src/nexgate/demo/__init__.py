"""``nexgate demo``: a gateway in front of real services, each a process of its own."""

from nexgate.demo._drill import run as run_drill
from nexgate.demo._run import run

__all__ = ["run", "run_drill"]
