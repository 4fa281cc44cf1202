"""From a model source to a checked version directory: fetch, convert, prove, and only then write."""
