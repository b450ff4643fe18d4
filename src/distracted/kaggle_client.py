"""Sign in to Kaggle with the user's credentials."""

import contextlib
import io
from typing import TYPE_CHECKING

from distracted.errors import CredentialsError

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

_REMEDY = (
    "no Kaggle credentials found: create a token on kaggle.com (Settings, API), save it as "
    "~/.kaggle/kaggle.json\n"
    "or export KAGGLE_USERNAME and KAGGLE_KEY; then accept the competition's rules on its page"
)


def sign_in() -> "KaggleApi":
    """Return an authenticated client.

    Raises:
        CredentialsError: no credentials are set up; the message says in two lines where to put them.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi  # slow, and it signs in on import

            api = KaggleApi()
            api.authenticate()
        except (SystemExit, OSError, ValueError) as error:  # without credentials the client calls exit()
            raise CredentialsError(_REMEDY) from error
    return api
