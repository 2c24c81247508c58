"""What other files of a release say of the models inside a model."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.parse.automappings import BACKBONES, AutoMappings, ModelEntry
from adapter_codegen.parse.glance import Glance, glance
from adapter_codegen.upstream import Release

_OF_BASES = "AutoModel"
_FOR = "AutoModelFor"
_BACKBONES = "AutoBackbone"


@dataclass(frozen=True)
class Class:
    """A class of another file."""

    name: str
    file: Glance
    path: str  # of the file
    has_type: bool = (
        True  # some model type has its base model in that file, so that adapter classes can be generated for it
    )

    @property
    def is_model(self) -> bool:
        return self.file.is_model(self.name)

    @property
    def forward(self) -> tuple[str, ...]:
        return self.file.forward(self.name)


@dataclass(frozen=True)
class Elsewhere:
    """Answers for the model type of one entry."""

    release: Release
    mappings: AutoMappings
    entry: ModelEntry

    def imported(self, origin: str) -> Class | None:
        """The class of a dotted name; None where it stands in no modeling file."""
        module, _, name = origin.rpartition(".")
        path = module.removeprefix("transformers.").replace(".", "/") + ".py"
        if not module.startswith("transformers.models.") or not self.release.exists(path):
            return None
        file, has_type = glance(self.release, path), bool(self.mappings.model_types_of(path))
        return Class(name, file, path, has_type) if name in file.classes else None

    def made(self, auto_class: str, config_path: str | None) -> Class | None:
        """The class that an auto class makes of a part's config; None where the config may be of any class."""
        config = self._config_class(config_path) if config_path is not None else ""
        table = self._table(auto_class)
        types = [model_type for model_type, known in self.mappings.configs.items() if known == config]
        found = {table[model_type][0] for model_type in types if model_type in table}
        return self._defined(types, found.pop()) if len(found) == 1 else None

    def _table(self, auto_class: str) -> dict[str, tuple[str, ...]]:
        if auto_class == _OF_BASES:
            return dict(self.mappings.bases)
        task = BACKBONES if auto_class == _BACKBONES else auto_class.removeprefix(_FOR).lower()
        found = (table for name, table in self.mappings.tasks.items() if name.replace("_", "") == task)
        return dict(next(found, {}))

    def default_type(self, config_path: str | None) -> str:
        """The model type of the config at a path where a user gives none; "" = not said."""
        outer, _, field = (config_path or "").rpartition(".")
        name, path = self._config_at(outer)
        return glance(self.release, path).default_types(name).get(field, "") if path else ""

    def _config_class(self, config_path: str) -> str:
        """The class of the config at a path; "" where it may be any."""
        return self._config_at(config_path)[0]

    def _config_at(self, config_path: str) -> tuple[str, str]:
        """The class of the config at a path, and its file; "" for what is not known."""
        name, path = self.entry.config_class, self.entry.config_path or ""
        for field in filter(None, config_path.split(".")):
            if not path:
                return "", ""
            name = glance(self.release, path).sub_configs(name).get(field, "")
            path = self._file_of_config(name)
        return name, path

    def _file_of_config(self, name: str) -> str:
        model_type = next((model_type for model_type, known in self.mappings.configs.items() if known == name), "")
        folder = self.mappings.folder(model_type)
        beside = self.entry.config_path
        candidates = (beside, f"models/{folder}/configuration_{folder}.py")
        known = (path for path in candidates if path and self.release.exists(path))
        return next((path for path in known if name in glance(self.release, path).classes), "")

    def _defined(self, model_types: list[str], name: str) -> Class | None:
        for model_type in model_types:
            try:
                path = self.mappings.entry(model_type).path
            except CodegenError:
                continue
            file = glance(self.release, path)
            if name in file.classes:
                return Class(name, file, path)
        return None
