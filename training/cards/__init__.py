"""The registry of published checkpoints, their cards, and the way to the Hub."""
