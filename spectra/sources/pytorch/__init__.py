"""What torch writes: checkpoints, programs, distributed folders; read without running any of it."""
