"""Examples that ship with Packhorse."""
