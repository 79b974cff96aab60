"""The outer iteration."""
