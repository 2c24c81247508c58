const CONFORMANCE = [
["llama", "bottleneck", "holds", "", ""],
["llama", "prefix_tuning", "holds", "", ""],
["llama", "lora", "holds", "", ""],
["llama", "reft", "holds", "", ""],
["llama", "prompt_tuning", "holds", "", ""],
["llama", "invertible", "holds", "", ""]
];
