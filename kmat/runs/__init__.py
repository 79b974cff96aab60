"""One run: its settings, its folder, its training, its scores, and its predictions."""
