"""Method (a TOML table), Plan (which rule for which node), traverse (the one walk)."""
