"""The heads of a model by name: adding, deleting and activating them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapter_runtime.composition import Setup
from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.values import Json
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES
from adapter_runtime.heads.custom import HeadClass, check_custom, custom_head_class
from adapter_runtime.heads.errors import UnknownHeadError
from adapter_runtime.heads.factory import canonical, custom_head, head_from_config
from adapter_runtime.heads.protocol import FlexibleHeadsModel, active_heads, all_heads, head_named
from adapter_runtime.heads.setups import HeadSetup, head_names, parse_heads
from adapter_runtime.model.heads.averaging import averaged
from adapter_runtime.model.heads.vocabulary import tie_head, update_ties


class NamedHeadsMixin:
    """What can be done with heads without running them."""

    def add_prediction_head(
        self: FlexibleHeadsModel, head: PredictionHead, overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add a head that was built for this model.

        Raises:
            ValueError: the name is taken or cannot be a name.
        """
        check_new_head(self, head.name, overwrite_ok)
        with unchanged_on_error(self, self.adapters_config):
            self.heads[head.name] = head
            self.config.prediction_heads[head.name] = head.config
            tie_head(self, head)
            if set_active:
                self.active_head = head.name

    def add_prediction_head_from_config(
        self: FlexibleHeadsModel,
        head_name: str,
        config: Mapping[str, object],
        overwrite_ok: bool = False,
        set_active: bool = True,
    ) -> None:
        """Add the head that `config`, as in ``head_config.json``, describes.

        Raises:
            InvalidConfigError: the type or an option is unknown.
            UnsupportedHeadError: heads of this type make no sense for the model.
            ValueError: the name is taken or cannot be a name.
        """
        check_new_head(self, head_name, overwrite_ok)
        head_type = canonical(config).get("head_type")
        if head_type in HEAD_CLASSES:
            self.check_head_type(str(head_type))
        head = head_from_config(self, head_name, config, self.custom_heads)
        self.add_prediction_head(head, overwrite_ok=overwrite_ok, set_active=set_active)

    def register_custom_head(self: FlexibleHeadsModel, identifier: str, head_class: HeadClass) -> None:
        """Let this model have heads of a class of your own, and files name them by `identifier`.

        For models that are loaded with such heads, register the class before: `adapter_models.heads.register_custom_head`.

        Raises:
            ValueError: the identifier is that of a head of this library.
            TypeError: `head_class` is no subclass of `PredictionHead`.
        """
        check_custom(identifier, head_class)
        self.custom_heads[identifier] = head_class

    def add_custom_head(
        self: FlexibleHeadsModel,
        head_type: str,
        head_name: str,
        overwrite_ok: bool = False,
        set_active: bool = True,
        **options: Json,
    ) -> None:
        """Add a head of a class that was registered as `head_type`.

        Args:
            options: arguments of its constructor, after the model and the name.

        Raises:
            InvalidConfigError: no class is registered, or it does not take the options.
            ValueError: the name is taken or cannot be a name.
        """
        check_new_head(self, head_name, overwrite_ok)
        head_class = custom_head_class(head_type, self.custom_heads)
        head = custom_head(self, head_name, head_type, head_class, options)
        self.add_prediction_head(head, overwrite_ok=overwrite_ok, set_active=set_active)

    def average_head(
        self: FlexibleHeadsModel,
        head_name: str,
        head_list: Sequence[str] | Mapping[str, float],
        weights: Sequence[float] | None = None,
        normalize_weights: bool = True,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None:
        """Add a head whose weights are a weighted sum of those of other heads.

        Args:
            head_name: of the new head.
            head_list: names of heads with the same layers and labels, or a dict of their weights by name.
            weights: one per head; None = equal ones.
            normalize_weights: divide the weights by their sum.
            overwrite_ok: replace a head of this name.
            set_active: make it the active head.

        Raises:
            UnknownHeadError: there is no such head.
            ValueError: the heads differ in more than weights, the weights make no sense, or the name is taken.
        """
        check_new_head(self, head_name, overwrite_ok)
        heads = [head_named(self, name) for name in head_list]
        if isinstance(head_list, Mapping):
            if weights is not None:
                raise ValueError("The weights of the heads are given twice: in head_list and in weights.")
            weights = list(head_list.values())
        state = averaged(heads, weights, normalize_weights)
        head = head_from_config(self, head_name, heads[0].config, self.custom_heads)
        head.load_state_dict(state)
        self.add_prediction_head(head, overwrite_ok=overwrite_ok, set_active=set_active)

    def delete_head(self: FlexibleHeadsModel, head_name: str | None = None) -> None:
        """Remove a head, by default the active one. A setup of several active heads that names it is deactivated.

        Raises:
            UnknownHeadError: there is no such head.
        """
        if head_name is None and not isinstance(self.active_head, str):
            raise UnknownHeadError(f"Say which head to delete: {self.active_head!r} is active.")
        name = head_named(self, head_name or str(self.active_head)).name
        with unchanged_on_error(self, self.adapters_config):
            del self.heads[name]
            del self.config.prediction_heads[name]
            update_ties(self)
            if name in head_names(self.active_head):
                self.active_head = None

    def get_prediction_heads_config(self: FlexibleHeadsModel) -> dict[str, HeadConfig]:
        """Name -> config of all heads."""
        return {head.name: head.config.copy() for head in all_heads(self)}

    @property
    def active_head(self: FlexibleHeadsModel) -> HeadSetup | None:
        """The heads that a forward runs: a name, a list of names, `Parallel`, `BatchSplit` or `MultiTask` of names.

        None: the outputs of the base model are returned. Activating one head also tells the config of the model the names
        of its labels, where pipelines look for them.

        Raises:
            UnknownHeadError: there is no such head.
            InvalidCompositionError: what is set names no heads.
        """
        return self._active_head

    @active_head.setter
    def active_head(self: FlexibleHeadsModel, heads: Setup) -> None:
        setup = parse_heads(heads)
        for name in head_names(setup):
            head_named(self, name)
        self._active_head = setup
        labels = _labels_of(self, setup) if isinstance(setup, str) else None
        if labels is not None:
            self.config.id2label = labels
            self.config.label2id = {label: index for index, label in labels.items()}

    def active_heads(self: FlexibleHeadsModel) -> list[PredictionHead]:
        """The heads that `active_head` names, in its order."""
        return active_heads(self)

    def get_labels_dict(self: FlexibleHeadsModel, head_name: str | None = None) -> dict[int, str] | None:
        """Index -> name of the labels of a head, by default the active one; None for heads without labels.

        Raises:
            UnknownHeadError: there is no such head, or not one head is active.
        """
        return _labels_of(self, head_name)

    def get_labels(self: FlexibleHeadsModel, head_name: str | None = None) -> list[str] | None:
        """The names of the labels in the order of their indices; None for heads without labels.

        Raises:
            UnknownHeadError: there is no such head, or not one head is active.
        """
        labels = _labels_of(self, head_name)
        return None if labels is None else [labels[index] for index in sorted(labels)]


def check_new_head(model: FlexibleHeadsModel, name: str, overwrite_ok: bool) -> None:
    """Raise where a head of this name cannot be added.

    Raises:
        ValueError: the name is taken, and `overwrite_ok` is false, or cannot be a name.
    """
    check_name(name, "head")
    if name in model.heads and not overwrite_ok:
        raise ValueError(f"The model has a head {name!r}. Delete it first, or pass overwrite_ok=True.")


def _labels_of(model: FlexibleHeadsModel, name: str | None) -> dict[int, str] | None:
    """Index -> name of the labels of a head, by default the active one; None for heads without labels."""
    if name is None and not isinstance(model.active_head, str):
        raise UnknownHeadError(f"Say which head has the labels: {model.active_head!r} is active.")
    label2id = head_named(model, name or str(model.active_head)).config.get("label2id")
    return None if label2id is None else {int(index): label for label, index in label2id.items()}
