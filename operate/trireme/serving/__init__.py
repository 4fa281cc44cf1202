"""What ``trireme serve`` runs: replicas behind Envoy, and the state that other commands read and change."""
