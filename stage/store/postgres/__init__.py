"""The store on PostgreSQL, which several replicas may share. Only this folder imports asyncpg."""
