"""Where the journal lives: sqlite and memory, and the SQL in .sql files."""
