"""Small problems, each solved in one piece."""
