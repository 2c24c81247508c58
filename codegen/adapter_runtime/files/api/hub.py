"""Uploads to the hub as methods of models."""

from __future__ import annotations

from collections.abc import Mapping

from adapter_runtime.composition import Setup
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.files.formats.setups import SavedHeads
from adapter_runtime.files.hub.card import CardValue
from adapter_runtime.files.hub.pushing import Upload, push_adapter, push_setup
from adapter_runtime.files.names import Folder


class HubMixin:
    """Uploads to the Hugging Face hub."""

    def push_adapter_to_hub(
        self: AdaptedModel,
        repo_id: str,
        adapter_name: str,
        datasets_tag: str | None = None,
        local_path: Folder | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        overwrite_adapter_card: bool = False,
        create_pr: bool = False,
        revision: str | None = None,
        commit_description: str | None = None,
        adapter_card_kwargs: Mapping[str, CardValue] | None = None,
    ) -> str:
        """Upload an adapter, with the head of the same name and a card, to a repository, which is created if missing.

        Args:
            repo_id: "user/name".
            adapter_name: which adapter.
            datasets_tag: the dataset that it was trained on, as it is called on the hub.
            local_path: the folder to save to and to upload; None = one that is deleted afterwards.
            commit_message: title of the commit.
            private: whether a new repository is private; None = as the account is set.
            token: a token, or True for the one that is logged in.
            overwrite_adapter_card: write a new card over that in `local_path` or in the repository.
            create_pr: open a pull request and leave the branch alone.
            revision: the branch to commit to.
            commit_description: text of the commit.
            adapter_card_kwargs: tags, language, license, metrics, architecture_training, results, citation.

        Returns:
            The address of the commit.

        Raises:
            UnknownAdapterError: there is no such adapter; nothing is uploaded.
            HubError: the hub refused; the message says what.
        """
        upload = Upload(
            repo_id=repo_id,
            local_path=local_path,
            message=commit_message,
            description=commit_description,
            private=private,
            token=token,
            create_pr=create_pr,
            revision=revision,
            overwrite_card=overwrite_adapter_card,
        )
        return push_adapter(self, adapter_name, upload, datasets_tag, adapter_card_kwargs or {})

    def push_adapter_setup_to_hub(
        self: AdaptedModel,
        repo_id: str,
        adapter_setup: Setup,
        head_setup: SavedHeads = None,
        datasets_tag: str | None = None,
        local_path: Folder | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        overwrite_adapter_card: bool = False,
        create_pr: bool = False,
        revision: str | None = None,
        commit_description: str | None = None,
        adapter_card_kwargs: Mapping[str, CardValue] | None = None,
    ) -> str:
        """Upload a composition with all that is in it. See `push_adapter_to_hub` and `save_adapter_setup`.

        Raises:
            UnknownAdapterError, UnknownHeadError: a part of the setup is missing; nothing is uploaded.
            HubError: the hub refused; the message says what.
        """
        upload = Upload(
            repo_id=repo_id,
            local_path=local_path,
            message=commit_message,
            description=commit_description,
            private=private,
            token=token,
            create_pr=create_pr,
            revision=revision,
            overwrite_card=overwrite_adapter_card,
        )
        return push_setup(self, adapter_setup, head_setup, upload, datasets_tag, adapter_card_kwargs or {})
