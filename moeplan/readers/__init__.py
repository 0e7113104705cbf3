"""Everything that comes from outside: catalog YAML, config.json, GGUF, safetensors."""
