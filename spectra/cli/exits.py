"""Exit codes of every command."""

DONE = 0
RULE_MET = DAMAGED = 1
USAGE = 2
INPUT = 3
LAYERS = 4
INTERRUPTED = 130
