"""A click in OHIF, in a real browser, from the DICOM archive to the DICOM SEG: `make test-ohif`.

An empty Orthanc gets two CTs as DICOM series through DICOMweb. MONAI Label with the sarcoma bundle stands in front of
it, and its own OHIF is opened in headless Chromium. There a click on the lesion and one beside it are made with the
mouse, the mask is seen, and saved as DICOM SEG. What each step leaves is compared with the scan, with the truth and
with `monai.bundle run` on the same clicks (`session.py`).
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
from pathlib import Path

from services import ROOT, Services, install

DATA = ROOT.parent / "shared" / "data" / "soft_tissue_sarcoma" / "ct"
KEPT = {".log", ".jsonl", ".png", ".jpg", ".nrrd"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with images/ and labels/ of the sarcoma CTs")
    parser.add_argument("--keep", type=Path, help="folder for logs, pictures and masks, which are removed otherwise")
    parser.add_argument("--picture", type=Path, help="where the picture of the page goes, JPEG")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("dicomweb_client", "highdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.ERROR)

    install()
    from session import Session, cases, store  # these need what has just been installed

    with tempfile.TemporaryDirectory(prefix="ohif-") as temporary:
        folder = Path(temporary)
        try:
            with Services(folder) as services:
                archive = services.archive()
                case, other = cases(options.data, folder)
                series = store(case, archive, folder)
                store(other, archive, folder)  # an archive with one study hides what goes wrong with several
                session = Session(case, series, archive, services)
                session.run()
                if options.picture:
                    session.write_picture(options.picture)
        finally:
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                for path in folder.iterdir():
                    if path.suffix in KEPT:
                        shutil.copy2(path, options.keep)
    if session.wrong:
        raise SystemExit(f"{len(session.wrong)} wrong: {'; '.join(session.wrong)}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
