"""`umt demo`: the whole method in small, on generated clips."""
