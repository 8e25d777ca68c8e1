"""Patterns: learned from data in one pass (``fit``), kept in a file (``file``), and used to explain (``explain``)."""
