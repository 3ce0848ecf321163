"""What splitting channels saves of the noise of rounding, where their parts come from, and how they are cut."""
