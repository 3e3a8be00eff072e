"""Where credentials come from; none is ever kept, shown or written."""

import netrc
import os
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from spahgc.errors import StoreError
from spahgc.urls import how_to_give, scheme_with_password

REMEDY: Final = (
    "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws by AWS_PROFILE; a "
    "public bucket is read with AWS_SKIP_SIGNATURE=true"
)

_READ_BY_OBSTORE: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
"""Variables that the standard chain asks before any file."""


def bucket_settings(url: str) -> dict[str, Any]:
    """Give what obstore must be told of a bucket: endpoint, region, who signs.

    The standard chain is asked: keys in the environment, a role given by variables, a profile of
    ``~/.aws`` (with SSO and roles to assume, by boto3), the role of the machine. Nothing is read
    unsigned but where ``AWS_SKIP_SIGNATURE`` asks for it.

    Raises
    ------
    StoreError
        If there are none, or they cannot be had.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is not None and (scheme := scheme_with_password(endpoint)) is not None:
        raise StoreError(f"AWS_ENDPOINT_URL: {how_to_give(scheme)}")
    settings: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    if _is_true("AWS_SKIP_SIGNATURE"):
        settings["skip_signature"] = True
    elif not any(os.environ.get(name) for name in _READ_BY_OBSTORE):
        settings |= _of_profile(url, settings)
    if "AWS_REGION" not in os.environ and "AWS_DEFAULT_REGION" not in os.environ:
        settings.setdefault("region", "us-east-1")
    return settings


def _of_profile(url: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Ask boto3, which knows profiles, SSO and roles; without it the machine's role is left."""
    if find_spec("boto3") is None:
        if "AWS_PROFILE" in os.environ or any(place.exists() for place in _shared_files()):
            raise StoreError(
                f"{url}: profiles of ~/.aws are read by boto3, which is not installed: `pip "
                f"install 'spahgc[s3]'`; or {REMEDY}"
            )
        if _is_true("AWS_EC2_METADATA_DISABLED"):
            raise StoreError(f"{url}: no credentials are found; {REMEDY}")
        metadata = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
        return {} if metadata is None else {"metadata_endpoint": metadata}
    from boto3 import Session
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session as ProfileSession
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        profile = ProfileSession()
        session = Session(botocore_session=profile)
        credentials = session.get_credentials()
        if credentials is None:
            raise StoreError(f"{url}: no credentials are found; {REMEDY}")
        credentials.get_frozen_credentials()  # an expired login is told now
        endpoint = profile.get_scoped_config().get("endpoint_url")
    except BotoCoreError as error:
        raise StoreError(f"{url}: {error}; {REMEDY}") from None
    found: dict[str, Any] = {"credential_provider": Boto3CredentialProvider(session)}
    if session.region_name is not None:
        found["region"] = session.region_name
    if endpoint and "endpoint" not in settings:
        found["endpoint"] = endpoint
    return found


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in {"1", "true", "yes", "on"}


def _shared_files() -> list[Path]:
    variables = {"AWS_SHARED_CREDENTIALS_FILE": "credentials", "AWS_CONFIG_FILE": "config"}
    return [
        Path(os.environ.get(variable, f"~/.aws/{name}")).expanduser()
        for variable, name in variables.items()
    ]


def web_headers(url: str) -> dict[str, str]:
    """Give the header that names user and password to a web server, where ``~/.netrc`` has them.

    Raises
    ------
    StoreError
        If that file cannot be read.
    """
    place = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not place.is_file():
        return {}
    try:
        known = netrc.netrc(str(place)).hosts.get(urlsplit(url).hostname or "")
    except netrc.NetrcParseError as error:
        raise StoreError(f"{place} cannot be read: line {error.lineno}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{place} cannot be read: {type(error).__name__}") from None
    if known is None:
        return {}
    user, _, password = known
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
