"""One saga: the loop that journals, then acts. No tasks; every engine shares it."""
