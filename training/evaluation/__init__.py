"""The published evaluation protocols of recognition, retrieval and question answering, and their metrics."""
