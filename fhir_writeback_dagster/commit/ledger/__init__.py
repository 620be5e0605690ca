"""Intents and attempts in the database, and which workers are alive."""
