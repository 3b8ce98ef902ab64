"""The example: a payment stage, its external API, and the stories that `stage demo` runs."""
