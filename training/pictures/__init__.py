"""Curves, masks and confusion matrices, and the page that shows them."""
