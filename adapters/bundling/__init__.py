"""Bundles from one template and a small file of values for each task."""

from adapters.bundling.root import bundle_root
from adapters.bundling.template import TASKS, differing_files, load_task, render, write_bundle

__all__ = ["TASKS", "bundle_root", "differing_files", "load_task", "render", "write_bundle"]
