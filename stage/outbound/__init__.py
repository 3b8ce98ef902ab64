"""Everything that leaves the stage: requests to external APIs and to neighbours."""
