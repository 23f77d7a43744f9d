"""Training data: videos in folders, lists, tables, Hub data sets and tar shards as batches of clips."""
