"""``python -m adapters.label.start``: MONAI Label's own command line, which ends on its setting of origins.

MONAI Label 0.8.5 reads the addresses in ``MONAI_LABEL_CORS_ORIGINS`` as objects that it cannot print, and compares them
with a slash at the end, which no browser sends. Its trainings, which are processes of their own, end on it too.
"""

from __future__ import annotations

import os


def main() -> None:
    """Gives the setting its texts, hides it from trainings, and goes on as ``python -m monailabel.main``."""
    from monailabel.config import settings
    from monailabel.main import Main

    class Server(Main):
        def start_server_init_settings(self, args: object) -> None:
            super().start_server_init_settings(args)  # which writes all settings into the environment
            os.environ.pop("MONAI_LABEL_CORS_ORIGINS", None)

    settings.MONAI_LABEL_CORS_ORIGINS = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    Server().run()


if __name__ == "__main__":
    main()
