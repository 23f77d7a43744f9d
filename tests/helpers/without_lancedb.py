"""A video processor for processes that must not have loaded LanceDB."""

import sys

from processing_umt import UMTVideoProcessor


class WithoutLanceDB(UMTVideoProcessor):
    def sample_frames(self, *args, **kwargs):
        if "lancedb" in sys.modules:
            raise RuntimeError("This process has loaded LanceDB, or was forked from one that has.")
        return super().sample_frames(*args, **kwargs)
