"""Defaults of `umt detect` and of the pipeline, in a module without imports, for a fast `umt --help`."""

DEFAULT_DETECTOR = "PekingU/rtdetr_r18vd"
DETECTOR_THRESHOLD = 0.8  # least score of a person
THRESHOLD = 0.5  # least score of an action
EVERY = 1.0  # seconds between two key frames
