"""Device-specific implementations of layers; memory layouts are known only here."""
