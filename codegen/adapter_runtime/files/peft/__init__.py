"""Adapters in PEFT's format: ``adapter_config.json`` with a "peft_type", beside ``adapter_model.safetensors``.

    documents  the JSON: which options mean something here, which change nothing, which are refused
    modules    PEFT names modules, this library names roles: the way from one to the other and back
    lora       LoRA and DoRA
    ia3        IA3
    prefix     prefix tuning; the keys of rotary models are turned, as PEFT counts positions from the prefix on
    prompt     prompt tuning
    heads      "modules_to_save": heads that were trained along
    reading    a folder of PEFT's -> an adapter of the model
    writing    an adapter of the model -> a folder of PEFT's

Where do I add a method? A file with ``read`` and ``write``, and its lines in the tables of ``reading`` and ``writing``.
"""
