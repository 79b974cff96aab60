"""K-MaT."""
