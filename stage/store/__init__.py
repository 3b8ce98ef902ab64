"""The journal at rest, in memory, on SQLite or on PostgreSQL: units, group commit, migrations."""
