"""SMART Backend Services and client secrets: tokens, keys, scopes, discovery."""
