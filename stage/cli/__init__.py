"""The command line: one file a group of verbs. Slow imports wait until they are needed."""
