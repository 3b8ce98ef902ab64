"""The pure core: what can happen to a saga, without a clock, dice or I/O."""
