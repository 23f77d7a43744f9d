"""`umt demo`: all stages of the method at toy scale, on generated clips."""
