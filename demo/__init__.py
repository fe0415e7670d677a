"""The demo: one picture that shows what mutual self-attention does, from a checkpoint trained for it."""
