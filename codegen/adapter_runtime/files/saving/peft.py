"""An adapter of a model as files of PEFT."""

from __future__ import annotations

from pathlib import Path

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.files.documents import write_document
from adapter_runtime.files.formats.peft_heads import copied_modules, head_modules, task_type_of
from adapter_runtime.files.names import PEFT_FILES, Folder
from adapter_runtime.files.tensors import write_tensors
from adapter_runtime.methods.configs.union import ConfigUnion
from adapter_runtime.methods.table import specs_of


def save_peft_adapter(
    model: AdaptedModel,
    save_directory: Folder,
    adapter_name: str,
    with_head: bool = False,
    task_type: str | None = None,
) -> None:
    """See `AdapterFilesMixin.save_peft_adapter`.

    Raises:
        UnsupportedMethodError: PEFT cannot express the adapter.
    """
    config = model.adapters_config.get(adapter_name)
    formats = () if isinstance(config, ConfigUnion) else specs_of(config)[0].peft
    form = next((form for form in formats if form.writes(config)), None)
    if form is None:
        what = "a union of methods" if isinstance(config, ConfigUnion) else f"a {type(config).__name__}"
        raise UnsupportedMethodError(
            f"Adapter {adapter_name!r} is {what}, which PEFT has no counterpart of. It can read LoRA, DoRA, IA3, prefix"
            " tuning and prompt tuning."
        )
    form.check_model(model)
    document, tensors = form.write(model, adapter_name, config)
    heads, head_tensors = head_modules(model) if with_head else ([], {})
    modules, copies = copied_modules(model, adapter_name)
    if modules and form.is_prompt:
        raise UnsupportedMethodError(
            f"Adapter {adapter_name!r} trains modules along (also_train), which PEFT has no counterpart of beside prompts and prefixes."
        )
    if not form.is_prompt:
        tensors = {f"base_model.model.{key}": tensor for key, tensor in tensors.items()}
    wrapper = "base_model." if form.is_prompt else "base_model.model."
    tensors.update({f"{wrapper}{key}": tensor for key, tensor in {**head_tensors, **copies}.items()})
    # By the task PEFT chooses what wraps the model. Adapted modules need none, and a task may ask for a head in the file.
    task = task_type or (task_type_of(model) if form.is_prompt or with_head else None)
    common = {
        "base_model_name_or_path": model.config.name_or_path or None,
        "inference_mode": True,
        "modules_to_save": [*heads, *modules] or None,
        "task_type": task,
    }
    write_tensors(Path(save_directory), PEFT_FILES, tensors, use_safetensors=True)
    write_document(Path(save_directory) / PEFT_FILES.config, {**common, **document})
