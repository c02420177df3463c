"""What setup.cfg cannot say: ``bundles/``, which lies beside the library, is installed inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["adapters", "adapters.*"]), "adapters.bundles"],
    package_dir={"adapters.bundles": "bundles"},
)
