"""Placeholder until the ASGI entry lands."""


class AsgiEntry:
    pass
