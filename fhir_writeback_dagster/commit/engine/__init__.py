"""One run of commit: re-check, send, record, reconcile."""
