"""``python -m adapters.label.start``: MONAI Label's own command line, which ends on its setting of origins.

MONAI Label 0.8.5 reads the addresses in ``MONAI_LABEL_CORS_ORIGINS`` as objects that it cannot print, and compares them
with a slash at the end, which no browser sends.
"""

from __future__ import annotations


def main() -> None:
    """Gives the setting its texts, and goes on as ``python -m monailabel.main``."""
    from monailabel.config import settings
    from monailabel.main import Main

    settings.MONAI_LABEL_CORS_ORIGINS = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    Main().run()


if __name__ == "__main__":
    main()
