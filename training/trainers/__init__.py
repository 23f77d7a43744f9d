"""The trainers, one for each objective, and what they share."""
