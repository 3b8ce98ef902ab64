"""A chain of stages driven by AWS Step Functions: the documents that `stage asl` writes."""
