"""Exit codes of every command; 0 is done."""

RULE_MET = DAMAGED = 1
USAGE = 2
INPUT = 3
LAYERS = 4
INTERRUPTED = 130
