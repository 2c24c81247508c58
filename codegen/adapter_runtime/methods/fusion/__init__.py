"""AdapterFusion: a learned attention over the outputs of bottleneck adapters."""
