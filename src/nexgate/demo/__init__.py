"""``nexgate demo``: a gateway in front of three real services, each a process of its own."""

from nexgate.demo._run import run

__all__ = ["run"]
