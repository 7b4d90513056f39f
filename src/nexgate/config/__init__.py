"""The machinery of configuration: sections, field types, loading, problems.

It knows no gateway: the sections live beside the components they configure, and
``nexgate.gateway_config`` composes them.
"""

from __future__ import annotations

from .addresses import parse_host, parse_port, parse_socket_path
from .certificates import check_authorities, check_certificate
from .environment import FromEnv
from .fields import (
    FROM_ENV,
    ExistingFolder,
    Flag,
    Integer,
    Number,
    ObjectPath,
    ReadableFile,
    integer,
    parse_object_path,
    unquoted,
)
from .hints import did_you_mean, nearest
from .lines import KeyPath, Span, spans
from .loader import MAX_BYTES, Report, examine, parse, placed, read_text
from .names import (
    FieldName,
    FieldValue,
    HostPattern,
    Token,
    parse_field_name,
    parse_token,
)
from .objects import MODULES, Objects, import_object
from .overrides import Overrides
from .problems import InvalidConfig, Problem, Severity, problem_of, problems_of, render
from .quantities import (
    Duration,
    PositiveDuration,
    Size,
    SizeLimit,
    Timeout,
    parse_duration,
    parse_size,
    size,
)
from .secret import SecretText
from .section import Finding, Section, attempt, findings, peek, wrong
from .shapes import OneOrMany, Short
from .stamps import Stamp, stamp
from .statuses import parse_status_range

__all__ = [
    "FROM_ENV",
    "MAX_BYTES",
    "MODULES",
    "Duration",
    "ExistingFolder",
    "FieldName",
    "FieldValue",
    "Finding",
    "Flag",
    "FromEnv",
    "HostPattern",
    "Integer",
    "InvalidConfig",
    "KeyPath",
    "Number",
    "ObjectPath",
    "Objects",
    "OneOrMany",
    "Overrides",
    "PositiveDuration",
    "Problem",
    "ReadableFile",
    "Report",
    "SecretText",
    "Section",
    "Severity",
    "Short",
    "Size",
    "SizeLimit",
    "Span",
    "Stamp",
    "Timeout",
    "Token",
    "attempt",
    "check_authorities",
    "check_certificate",
    "did_you_mean",
    "examine",
    "findings",
    "import_object",
    "integer",
    "nearest",
    "parse",
    "parse_duration",
    "parse_field_name",
    "parse_host",
    "parse_object_path",
    "parse_port",
    "parse_size",
    "parse_socket_path",
    "parse_status_range",
    "parse_token",
    "peek",
    "placed",
    "problem_of",
    "problems_of",
    "read_text",
    "render",
    "size",
    "spans",
    "stamp",
    "unquoted",
    "wrong",
]
