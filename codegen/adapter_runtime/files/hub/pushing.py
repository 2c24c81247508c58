"""Save into a folder, create a repository of the hub, write the card, upload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from adapter_runtime.composition import Setup, parse_composition
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import AdapterError, InvalidCompositionError
from adapter_runtime.files.documents import write_atomically
from adapter_runtime.files.formats.setups import SavedHeads
from adapter_runtime.files.hub.card import CardOptions, CardValue, render_card
from adapter_runtime.files.names import CARD_FILE, Folder
from adapter_runtime.files.saving.adapter import save_adapter
from adapter_runtime.files.saving.setup import save_adapter_setup
from adapter_runtime.files.source import UNREACHABLE


class HubError(AdapterError, OSError):
    """The hub refused an upload, or could not be reached."""


@dataclass(frozen=True)
class Upload:
    """Where an upload goes."""

    repo_id: str
    local_path: Folder | None = None  # saved to and kept; None = a temporary folder
    message: str | None = None
    description: str | None = None
    private: bool | None = None
    token: bool | str | None = None
    create_pr: bool = False
    revision: str | None = None
    overwrite_card: bool = False


def push_adapter(
    model: AdaptedModel, name: str, upload: Upload, datasets_tag: str | None, card: Mapping[str, CardValue]
) -> str:
    """See `HubMixin.push_adapter_to_hub`."""
    model.adapters_config.get(name)
    options = CardOptions.of(model, name, "load_adapter", upload.repo_id, datasets_tag, card)
    return _push(upload, lambda folder: save_adapter(model, folder, name), options, f"Upload adapter {name}")


def push_setup(
    model: AdaptedModel,
    setup: Setup,
    heads: SavedHeads,
    upload: Upload,
    datasets_tag: str | None,
    card: Mapping[str, CardValue],
) -> str:
    """See `HubMixin.push_adapter_setup_to_hub`.

    Raises:
        InvalidCompositionError: the setup is None.
    """
    block = parse_composition(setup)
    if block is None:
        raise InvalidCompositionError("There is no setup to push: give a name or a block.")
    model.adapters_config.require(block.flatten())
    options = CardOptions.of(model, str(block), "load_adapter_setup", upload.repo_id, datasets_tag, card)
    return _push(
        upload, lambda folder: save_adapter_setup(model, folder, block, heads), options, "Upload adapter setup"
    )


def _push(upload: Upload, save: Callable[[Path], object], card: CardOptions, message: str) -> str:
    """Save, create the repository, upload. An error while saving leaves no repository behind."""
    if upload.create_pr and upload.revision is not None:
        raise ValueError("A pull request gets a branch of its own: give either create_pr=True or a revision.")
    text = render_card(card)
    with _folder(upload.local_path) as folder:
        save(folder)
        api = HfApi(token=upload.token)
        with _explained(upload.repo_id):
            repo_id = api.create_repo(upload.repo_id, private=upload.private, exist_ok=True).repo_id
            if upload.overwrite_card or not _has_card(api, repo_id, folder, upload.revision):
                write_atomically(
                    folder / CARD_FILE, lambda path: path.write_text(text, encoding="utf-8", newline="\n")
                )
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=upload.message or message,
                commit_description=upload.description,
                revision=upload.revision,
                create_pr=upload.create_pr,
            )
    return str(commit.commit_url)


@contextmanager
def _folder(local_path: Folder | None) -> Iterator[Path]:
    if local_path is not None:
        path = Path(local_path)
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with TemporaryDirectory(prefix="adapter-") as name:
        yield Path(name)


def _has_card(api: HfApi, repo_id: str, folder: Path, revision: str | None) -> bool:
    """Whether somebody has written a card already, here or on the hub."""
    return (folder / CARD_FILE).is_file() or api.file_exists(repo_id, CARD_FILE, revision=revision)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn the errors of the hub into ones that say what to do."""
    try:
        yield
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} cannot be the id of a repository of the hub: {error}") from error
    except LocalTokenNotFoundError as error:
        raise HubError(f"Nothing was pushed to {repo_id!r}: there is no token. Log in, or pass token=...") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        hint = " Log in with an account that may write there, or pass token=..." if status in (401, 403) else ""
        raise HubError(f"The hub refused the upload to {repo_id!r} (status {status}): {error}.{hint}") from error
    except UNREACHABLE as error:
        raise HubError(f"Nothing was pushed to {repo_id!r}: the hub cannot be reached ({error}).") from error
