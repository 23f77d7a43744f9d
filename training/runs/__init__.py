"""From a recipe to a run: reading it, what it would cost, and training from data to model card."""
