"""A run for readers: text, HTML, JSON, JUnit, plots."""
