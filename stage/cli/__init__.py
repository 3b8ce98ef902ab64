"""The command line: one file a group of verbs. What starts slowly is imported when it is needed."""
