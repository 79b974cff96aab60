"""Sets of spaces: all their pairs, and their barycenters."""
