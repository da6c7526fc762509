"""What commands found, as records, and every way to draw them; nothing is measured here."""
