"""What runs a model: transformers, or an engine of vLLM."""
