"""3DSAM-adapter (arXiv 2306.13465)."""
