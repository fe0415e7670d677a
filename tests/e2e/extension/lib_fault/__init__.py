"""What the fault extension does, by subject; ``scripts/fault_injection.py`` offers it to the tests."""
