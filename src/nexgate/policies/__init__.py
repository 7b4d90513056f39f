"""Policies: what acts on an exchange between edge and service. One folder each; none imports
another.
"""
