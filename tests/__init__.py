"""The tests; some of what they share is imported from here."""
