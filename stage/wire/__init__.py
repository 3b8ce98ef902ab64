"""The public protocol: envelope, headers, replies, problems, descriptor, schemas. No I/O."""
