"""Servers, clients and wires that misbehave on purpose, for tests of anything that speaks TCP.

=====================  ==================================================================
``ScriptedUpstream``   a server that does exactly what its script says, down to the byte
``RecordingUpstream``  a server that answers, and remembers every request byte for byte
``RawClient``          a client that sends what you write, right or wrong
``FaultProxy``         a wire with latency, jitter, a bandwidth, and ends of every kind
``wait_until``         waits for a fact instead of sleeping
``free_port``          a port nobody listens on
=====================  ==================================================================

Nothing here depends on a test framework, and nothing leaves the machine: servers listen on
``127.0.0.1`` or on a unix socket. All of it runs on asyncio and on uvloop.
"""

from nexgate.testing._fault_proxy import Fault, FaultProxy, FaultProxyStatistics
from nexgate.testing._raw_client import RawClient, RawResponse
from nexgate.testing._recording_upstream import RecordedRequest, RecordingUpstream, canned
from nexgate.testing._scripted_upstream import Outcome, Script, ScriptedConnection, ScriptedUpstream
from nexgate.testing._steps import (
    Close,
    ExpectHead,
    HalfClose,
    Hang,
    ReadExactly,
    ReadRequest,
    ReadToEnd,
    Repeat,
    Reset,
    Send,
    SendSlowly,
    Sleep,
    Step,
)
from nexgate.testing._waiting import free_port, wait_until

__all__ = [
    "Close",
    "ExpectHead",
    "Fault",
    "FaultProxy",
    "FaultProxyStatistics",
    "HalfClose",
    "Hang",
    "Outcome",
    "RawClient",
    "RawResponse",
    "ReadExactly",
    "ReadRequest",
    "ReadToEnd",
    "RecordedRequest",
    "RecordingUpstream",
    "Repeat",
    "Reset",
    "Script",
    "ScriptedConnection",
    "ScriptedUpstream",
    "Send",
    "SendSlowly",
    "Sleep",
    "Step",
    "canned",
    "free_port",
    "wait_until",
]
