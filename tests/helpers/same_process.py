"""Stands in for a pool of processes, so that pytest captures the output."""


class SameProcess:
    def __init__(self, processes, context, initializer=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    map = staticmethod(map)
