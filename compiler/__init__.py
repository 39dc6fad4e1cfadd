"""From a denoiser to a compiled model: capture, pass manager, builders, reports."""
