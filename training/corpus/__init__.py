"""The path of a folder and of a corpus: videos listed once, decoded in workers, batched, saved in parts."""
