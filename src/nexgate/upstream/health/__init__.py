"""Active health: probes that ask an instance how it is."""

from nexgate.upstream.health._probe import Probe, ProbeSettings

__all__ = ["Probe", "ProbeSettings"]
