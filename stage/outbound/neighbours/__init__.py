"""How neighbours are spoken to, one file a protocol."""
