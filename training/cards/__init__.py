"""Model cards, the registry of published checkpoints, and publishing on the Hub."""
