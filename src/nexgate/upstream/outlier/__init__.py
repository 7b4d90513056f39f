"""Passive health: instances that fail what they are asked are left alone for a while."""

from nexgate.upstream.outlier._outlier import Outlier, OutlierSettings

__all__ = ["Outlier", "OutlierSettings"]
