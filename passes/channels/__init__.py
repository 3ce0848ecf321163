"""Which channels of a graph scale together, what noise each makes, and how all are scaled."""
