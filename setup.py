"""The packages of the distribution; everything else is in pyproject.toml.

The folder `training/` is installed as `umt_training`, since many people have a folder `training/` of their own, and
the registry of `model_cards/` as `umt_training.model_cards`. pyproject.toml can only list such packages one by one.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["modeling_umt", "modeling_umt.*", "processing_umt", "processing_umt.*"]),
        "modeling_umt.labels",
        *("umt_" + name for name in find_packages(include=["training", "training.*"])),
        "umt_training.recipes",
        "umt_training.model_cards",
    ],
    package_dir={"umt_training": "training", "umt_training.model_cards": "model_cards"},
)
