"""One TOML for each run worth repeating."""
