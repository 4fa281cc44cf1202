"""The model repository on disk: folders, configurations, manifests, golden samples, routes."""
