"""Commands answer at once: heavy packages are imported only where they are used."""

from distracted.paths import CONFIGS

SCRIPTS = CONFIGS.parent / "scripts"
#: Each takes from a quarter of a second to four seconds to import.
HEAVY = set(
    [
        "albumentations",
        "cv2",
        "jinja2",
        "kaggle",
        "matplotlib",
        "ray",
        "requests",
        "sklearn",
        "timm",
        "torch",
        "torchvision",
        "wandb",
    ]
)
