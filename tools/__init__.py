"""What keeps the repository's generated files in step with the code; run from the repository root."""
