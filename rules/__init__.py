"""Methods as data: one TOML file per method, read through ``importlib.resources``."""
