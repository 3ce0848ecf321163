"""Integer weights that do less harm than the nearest ones."""
