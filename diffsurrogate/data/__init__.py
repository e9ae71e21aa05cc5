"""Windows cut, kept and drawn again."""
