"""How the stage behaves as its database and its load grow: FIGURES P6, P8, P10 and P11."""
