"""Placeholder until the ASGI instance lands."""


class AsgiInstance:
    pass
