"""LoRA, DoRA and IA3 in the format of PEFT."""
