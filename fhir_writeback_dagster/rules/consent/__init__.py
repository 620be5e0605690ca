"""What a patient's R4 Consents say of one write."""
