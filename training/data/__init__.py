"""From folders, lists, tables, Hub datasets and tar shards of videos to the batches of a run."""
