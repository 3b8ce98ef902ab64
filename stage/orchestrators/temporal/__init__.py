"""A chain of stages driven by a workflow of Temporal: `workflow` decides, `activities` send."""
