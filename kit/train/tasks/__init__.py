"""Tasks: forecasting, forecasting from a replay buffer, light decoders on latents."""
