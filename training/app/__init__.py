"""The page of `umt app`: videos, and what models predict of them. Only the modules of this folder import Gradio."""
