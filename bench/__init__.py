"""Nexgate against its peers, on this machine, in one run.

``python -m bench`` starts every proxy it finds with an equivalent configuration, drives each with
the same load, and reports ratios. Only ratios of one run mean anything; the machine's noise is
answered with interleaved rounds and medians. See ``docs/explanation/performance.md``.
"""
