"""Ways into an account: every kind behind the same six operations."""
