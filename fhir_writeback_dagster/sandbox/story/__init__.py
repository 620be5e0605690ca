"""The demo's hospitals, their messy deliveries, and what is right."""
