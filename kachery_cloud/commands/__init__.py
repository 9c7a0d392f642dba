"""What users type: the console commands, and what they print."""
