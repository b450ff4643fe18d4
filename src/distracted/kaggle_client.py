"""The Kaggle client, signed in with the user's credentials; imported late, since its import asks for them."""

import contextlib
import io
from typing import TYPE_CHECKING

from distracted.errors import CredentialsError

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

_WAY_OUT = (
    "no Kaggle credentials found: create a token on kaggle.com (Settings, API) and keep it in "
    "~/.kaggle/kaggle.json,\n"
    "or export KAGGLE_USERNAME and KAGGLE_KEY; and accept the competition's rules on its page"
)


def sign_in() -> "KaggleApi":
    """Sign in to Kaggle.

    Raises:
        CredentialsError: no credentials; the message says where they go.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
        except (SystemExit, OSError, ValueError) as error:  # without credentials the client exits
            raise CredentialsError(_WAY_OUT) from error
    return api
