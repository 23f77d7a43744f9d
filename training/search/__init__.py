"""Search of videos by text: windows of time, the index of their vectors, and queries."""
