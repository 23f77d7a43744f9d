"""`umt detect`: the persons of a video, linked into tracks, and the actions of each."""
