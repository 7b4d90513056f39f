"""Balancers: one strategy a file. ``make_balancer`` turns a name into one."""

from nexgate.upstream.balancer._base import Balancer
from nexgate.upstream.balancer._consistent_hash import ConsistentHash
from nexgate.upstream.balancer._ewma import PeakEwma
from nexgate.upstream.balancer._latency import PeakLatency
from nexgate.upstream.balancer._least_requests import LeastRequests
from nexgate.upstream.balancer._random import WeightedRandom
from nexgate.upstream.balancer._round_robin import RoundRobin
from nexgate.upstream.balancer._sticky_cookie import StickyCookie

__all__ = [
    "Balancer",
    "ConsistentHash",
    "LeastRequests",
    "PeakEwma",
    "PeakLatency",
    "RoundRobin",
    "StickyCookie",
    "WeightedRandom",
]
