"""What several methods use: gates, random numbers, projections by role, parameters that layers share, the format of PEFT."""
