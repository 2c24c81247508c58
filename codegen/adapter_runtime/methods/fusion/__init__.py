"""AdapterFusion: a learned mixture of bottleneck adapters."""
