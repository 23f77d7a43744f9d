"""Moments of a folder of videos by text: the index and the question."""
