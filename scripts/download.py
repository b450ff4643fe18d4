"""make data: download the competition with the user's own Kaggle credentials."""

import console
from distracted.config import load_data_config


def main(data: console.Data = "state_farm", root: console.Root = console.HERE) -> None:
    """Download and unpack a competition into input/."""
    from distracted.data.download import download_competition

    config = load_data_config(data, root=root)
    download_competition(config, progress=console.progress)
    console.say(f"{config.folder}: downloaded and unpacked")


if __name__ == "__main__":
    console.run(main)
