"""Routing: which route answers a request. Pure: no I/O, no clock, no state.

``normalise`` brings the path to the form that is matched and forwarded; ``RouteTable.match`` finds
the route; ``explain`` says why. Rewriting, redirecting and weights are what routes *do*, elsewhere.
"""

from nexgate.routing._explain import Candidate, Explanation, explain
from nexgate.routing._path import PathRules, matching_key, normalise
from nexgate.routing._predicates import (
    Absent,
    Condition,
    CookiePredicate,
    Exact,
    HeaderPredicate,
    Predicate,
    Present,
    QueryPredicate,
    Regex,
)
from nexgate.routing._route import Match, Miss, Route, host_matches
from nexgate.routing._subject import Routable, Subject, parse_cookies, parse_query
from nexgate.routing._substitute import substitution
from nexgate.routing._table import RouteTable
from nexgate.routing._template import ParamValue, Segment, Template, TemplateError

__all__ = [
    "Absent",
    "Candidate",
    "Condition",
    "CookiePredicate",
    "Exact",
    "Explanation",
    "HeaderPredicate",
    "Match",
    "Miss",
    "ParamValue",
    "PathRules",
    "Predicate",
    "Present",
    "QueryPredicate",
    "Regex",
    "Routable",
    "Route",
    "RouteTable",
    "Segment",
    "Subject",
    "Template",
    "TemplateError",
    "explain",
    "host_matches",
    "matching_key",
    "normalise",
    "parse_cookies",
    "parse_query",
    "substitution",
]
