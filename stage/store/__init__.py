"""The journal at rest, in memory or on SQLite: units, group commit, migrations."""
