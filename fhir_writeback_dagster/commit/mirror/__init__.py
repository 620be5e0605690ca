"""What is kept of the EHR for decisions: patients, encounters, consents."""
