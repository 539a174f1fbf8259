"""Instruments behind an INDI server (INDI protocol 1.7, white paper of E. C. Downey)."""
