"""The line to the EHR: transport, TLS, and the hosts that may be reached."""
