"""What runs in a layer: programs, compiled from composition blocks when adapters are activated."""
