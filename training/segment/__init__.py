"""From a raw volume to its mitochondria in one command."""
