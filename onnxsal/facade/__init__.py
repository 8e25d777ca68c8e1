"""What a user calls: convert, plan, check, vjp; each takes a model and returns a value."""
