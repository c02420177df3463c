"""Bundles from one template and a small file of values for each task."""

from adapters.bundling.template import TASKS, differing_files, load_task, render, write_bundle
from adapters.bundling.workflow import bundle_root, leave_group

__all__ = ["TASKS", "bundle_root", "differing_files", "leave_group", "load_task", "render", "write_bundle"]
