"""The trainers, one for each objective, and their shared parts."""
