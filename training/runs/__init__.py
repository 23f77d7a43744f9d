"""Training runs from recipes, from data to model card, and estimates of their cost."""
