"""`fxedge diff`: what changed between two bundles, and whether that is too much."""
