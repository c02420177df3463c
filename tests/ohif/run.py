"""A click in OHIF, in a real browser, from the DICOM archive to the DICOM SEG: `make test-ohif`.

An empty Orthanc gets a CT as a DICOM series through DICOMweb. MONAI Label with the sarcoma bundle stands in front of it,
and its own OHIF is opened in headless Chromium. There a click on the lesion and one beside it are made with the mouse,
the mask is seen, and saved as DICOM SEG. Everything that this leaves is compared with the scan, with the truth and with
`monai.bundle run` on the same clicks.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services import ROOT, Browser, Services, install

log = logging.getLogger("ohif")
BUNDLE = ROOT / "bundles" / "soft_tissue_sarcoma_ct_samadapter_deepgrow"
DATA = ROOT.parent / "shared" / "data" / "soft_tissue_sarcoma" / "ct"
PATIENT, OTHER = "STS_028", "STS_004"  # of the bundle's test patients
PICTURE_WIDTH = 1360


@dataclass(frozen=True)
class Case:
    """A scan to click on.

    Attributes:
        name: The patient's.
        image: The scan's file.
        label: The lesion's file, on the same grid.
        bound: The Dice with the truth that one click in the lesion's middle must reach.
    """

    name: str
    image: Path
    label: Path
    bound: float


class Checks:
    """What was found, line by line; the run fails at its end if any of it is wrong."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def __call__(self, what: str, *, found: object, right: bool) -> None:
        log.info("%-6s %s: %s", "ok" if right else "WRONG", what, found)
        if not right:
            self.failed.append(what)


def cases(data: Path, folder: Path) -> list[Case]:
    """A patient that the bundle was not trained on and another one, or phantoms where the data are not there."""
    if (data / "images" / f"{PATIENT}.nii.gz").is_file():
        # the shipped weights reach 0.79 there
        return [Case(n, data / "images" / f"{n}.nii.gz", data / "labels" / f"{n}.nii.gz", 0.75) for n in (PATIENT, OTHER)]
    from adapters.datasets import write_phantoms

    log.info("no data in %s: generated phantoms", data)
    listed = write_phantoms(folder, cases=2, seed=2, shape=(160, 160, 60), spacing=(3.0, 3.0, 6.0))
    # the shipped weights reach 0.69 on the first
    return [Case(Path(each["image"]).name.split(".")[0], Path(each["image"]), Path(each["label"]), 0.6) for each in listed]


def store(case: Case, archive: str, folder: Path) -> list[Any]:
    """Write a case as a DICOM series and store it in the archive; its instances."""
    import nibabel as nib
    from dicomweb_client import DICOMwebClient
    from pydicom import dcmread
    from series import write_series

    instances = [dcmread(path) for path in write_series(nib.load(case.image), case.name, folder / "series" / case.name)]
    answer = DICOMwebClient(archive).store_instances(instances)
    if len(answer.ReferencedSOPSequence) != len(instances) or answer.get("FailedSOPSequence"):
        raise RuntimeError(f"the archive took {len(answer.ReferencedSOPSequence)} of {len(instances)} slices: {answer}")
    return instances


def scroll(browser: Browser, viewport: str, point: Any, thickness: float) -> Any:
    """Turn the wheel over a viewport until it shows the slice through a point (mm, LPS); how it is seen then."""
    from views import View

    view = View.of(browser("view", viewport=viewport))
    x, y = view.corner + view.size / 2
    notches = 1
    for _ in range(300):
        depth = abs(view.depth(point))
        if depth < 0.5 * thickness:
            return view
        browser("wheel", x=x, y=y, notches=notches)
        view = View.of(browser("view", viewport=viewport))
        if abs(view.depth(point)) > depth:
            notches = -notches
    raise RuntimeError(f"the wheel does not bring {viewport} to {point}: still {depth:.1f} mm away")


def plain(case: Case, points: list[list[int]], labels: list[int], folder: Path) -> Any:
    """The mask that `monai.bundle run` makes of the same clicks on the scan's own file."""
    import nibabel as nib
    import numpy as np

    requests, written = folder / "requests.json", folder / "plain"
    entry = {"image": str(case.image), "points": points, "point_labels": labels}
    requests.write_text(json.dumps([entry]), encoding="utf-8")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(BUNDLE / "configs" / "inference.json")]
    options = {"bundle_root": str(BUNDLE), "requests": str(requests), "output_dir": str(written)}
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return np.asarray(nib.load(written / f"{case.name}_mask.nii.gz").dataobj) > 0


def dice(one: Any, other: Any) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def run(case: Case, instances: list[Any], archive: str, services: Services, picture: Path) -> list[str]:
    """From the list of studies to the DICOM SEG; what was wrong."""
    import itk
    import nibabel as nib
    import numpy as np
    from dicomweb_client import DICOMwebClient
    from highdicom.seg import Segmentation
    from series import RAS_TO_LPS
    from views import best_shift, seen_at, voxels_in_plane

    from adapters.clicks import centre_click, next_click

    check, folder = Checks(), services.folder
    image = nib.load(case.image)
    scan, truth = image.get_fdata(), np.asarray(nib.load(case.label).dataobj) > 0
    affine, spacing = RAS_TO_LPS @ image.affine, [float(n) for n in image.header.get_zooms()]
    server, browser = services.label_server(archive, BUNDLE), services.browser()
    opened = browser("open", server=server, patient=case.name, model=BUNDLE.name)
    check("the panel's tabs", found=opened["tabs"], right="Point Prompts" in opened["tabs"])

    def patient(voxel: Any) -> Any:
        return affine[:3, :3] @ voxel + affine[:3, 3]

    def click(viewport: str, voxel: Any, label: str, name: str) -> Any:
        """Click on a voxel in a viewport; the point under the mouse, mm LPS."""
        axis = ("sagittal", "coronal", "axial").index(viewport.removeprefix("mpr-"))
        browser("label", name=label)
        view = scroll(browser, viewport, patient(voxel), spacing[axis])
        seen = folder / f"{name}_seen.png"
        browser("picture", path=str(seen), clip=view.clip)
        shift, agreement = best_shift(view, seen, scan, affine, voxel)
        found = f"shift {shift}, correlation {agreement:.3f}"
        check(f"{viewport} shows the scan where it should", found=found, right=not any(shift) and agreement > 0.8)
        x, y = np.rint(view.to_page(patient(voxel)))
        browser("click", x=x, y=y)
        return view.to_patient([x, y])

    def answered(name: str, mouse: list[Any], labels: list[int]) -> tuple[Any, list[list[int]]]:
        """Press Run; the server's mask and the points that it was asked with."""
        answer = browser("run", name=name)
        check(f"{name}: the server answers", found=f"{answer['status']} in {answer['seconds']:.2f} s", right=answer["status"] == 200)
        log.info("       %s %s", answer["url"], json.dumps(answer["params"]))
        sent = answer["params"]["foreground"] + answer["params"]["background"]
        given = [len(answer["params"]["foreground"]), len(answer["params"]["background"])]
        check(f"{name}: clicks on and off the lesion", found=given, right=given == [labels.count(1), labels.count(0)])
        read = itk.imread(answer["answer"])
        mask = itk.array_view_from_image(read).T > 0
        # where the server has the voxels that OHIF names
        places = [np.array(read.TransformIndexToPhysicalPoint([int(n) for n in point])) for point in sent]
        step = np.abs(np.linalg.inv(affine[:3, :3]) @ (np.array(places) - np.array(mouse)).T).max()
        check(f"{name}: from the mouse to the point asked for", found=f"{step:.2f} voxels", right=bool(step <= 0.55))
        check(f"{name}: the answer's grid", found=mask.shape, right=mask.shape == scan.shape)
        shown = np.fromfile(answer["shown"], np.uint8).reshape(scan.shape, order="F") > 0
        check(f"{name}: voxels that OHIF holds otherwise", found=int((shown != mask).sum()), right=bool((shown == mask).all()))
        ours = plain(case, sent, labels, folder)
        check(f"{name}: Dice with monai.bundle on the same clicks", found=f"{dice(mask, ours):.4f}", right=dice(mask, ours) > 0.995)
        return mask, sent

    def seen_mask(viewport: str, voxel: Any, mask: Any, name: str) -> None:
        """Whether the mask's colour is on the screen where the mask is."""
        from views import View

        view, path = View.of(browser("view", viewport=viewport)), folder / f"{name}.png"
        browser("picture", path=str(path), clip=view.clip)
        voxels = voxels_in_plane(view, affine, scan.shape, voxel, radius=60)
        colours = seen_at(view, path, voxels @ affine[:3, :3].T + affine[:3, 3])
        coloured = np.ptp(colours, axis=-1) > 25
        found = dice(coloured, mask[tuple(voxels.T)])
        check(f"{viewport}: Dice of what is coloured with the mask", found=f"{found:.3f}", right=found > 0.9)

    middle = centre_click(truth, spacing=tuple(spacing))[0][0]
    mouse = [click("mpr-axial", middle, "tumor", "on")]
    mask, sent = answered("first", mouse, [1])
    check("first: the point lies on the lesion", found=sent[0], right=bool(truth[tuple(sent[0])]))
    check(f"first: Dice with the truth, at least {case.bound}", found=f"{dice(mask, truth):.3f}", right=dice(mask, truth) >= case.bound)
    seen_mask("mpr-axial", middle, mask, "first_mask")

    # where the mask is and the lesion is not, as in another plane
    beside = next_click(truth, truth | mask, spacing=tuple(spacing))[0][0]
    mouse.append(click("mpr-coronal", beside, "background", "off"))
    browser("label", name="tumor")  # Run sends the clicks of the label that is chosen as those on the lesion
    before = mask
    mask, sent = answered("second", mouse, [1, 0])
    check("second: the point lies off the lesion", found=sent[1], right=not truth[tuple(sent[1])])
    check("second: the mask is gone there", found=int(mask[tuple(sent[1])]), right=bool(before[tuple(sent[1])] and not mask[tuple(sent[1])]))
    check(f"second: Dice with the truth, at least {case.bound}", found=f"{dice(mask, truth):.3f}", right=dice(mask, truth) >= case.bound)
    seen_mask("mpr-coronal", beside, mask, "second_mask")

    browser("picture", path=str(folder / "page.png"))
    write_picture(folder / "page.png", picture)

    series = str(instances[0].SeriesInstanceUID)
    saved = browser("save", server=server, series=series, label="tumor")
    check("OHIF's mask is saved", found=saved["status"], right=saved["status"] == 200)
    client = DICOMwebClient(archive)
    (listed,) = client.search_for_series(search_filters={"Modality": "SEG"})
    (stored,) = client.retrieve_series(*(listed[tag]["Value"][0] for tag in ("0020000D", "0020000E")))
    segmentation = Segmentation.from_dataset(stored)
    frame = str(instances[0].FrameOfReferenceUID)
    check("SEG: frame of reference", found=segmentation.FrameOfReferenceUID, right=segmentation.FrameOfReferenceUID == frame)
    study = str(instances[0].StudyInstanceUID)
    check("SEG: study", found=segmentation.StudyInstanceUID, right=segmentation.StudyInstanceUID == study)
    names = [each.segment_label for each in (segmentation.get_segment_description(n) for n in segmentation.segment_numbers)]
    check("SEG: segments", found=names, right=names == ["tumor"])
    slices = segmentation.get_pixels_by_source_instance(
        [str(each.SOPInstanceUID) for each in instances], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    voxels = slices[..., 0].transpose(2, 1, 0) > 0
    check("SEG: voxels unlike the mask's", found=f"{int((voxels != mask).sum())} of {int(mask.sum())}", right=bool((voxels == mask).all()))
    off = places_off(segmentation, instances)
    check("SEG: frames away from their slices", found=f"{off:.4f} mm", right=off < 0.01)
    return check.failed


def places_off(segmentation: Any, instances: list[Any]) -> float:
    """The largest distance in mm between the corners of a SEG's frames and those of the slices that they are of."""
    import numpy as np

    slices = {str(each.SOPInstanceUID): each for each in instances}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    corners = np.array([[0, 0], [0, segmentation.Rows - 1], [segmentation.Columns - 1, 0]])

    def places(position: Any, orientation: Any, spacing: Any) -> Any:
        axes = np.array(orientation, float).reshape(2, 3) * np.array(spacing, float)[::-1, None]
        return np.array(position, float) + corners @ axes

    distances = []
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        of = slices[str(source)]
        has = places(
            frame.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
        )
        wanted = places(of.ImagePositionPatient, of.ImageOrientationPatient, of.PixelSpacing)
        distances.append(np.linalg.norm(has - wanted, axis=-1).max())
    return float(max(distances))


def write_picture(page: Path, picture: Path) -> None:
    from PIL import Image

    from adapters.files import replacing

    with Image.open(page) as opened:
        height = round(opened.height * PICTURE_WIDTH / opened.width)
        small = opened.convert("RGB").resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS)
    with replacing(picture) as temporary:
        small.save(temporary, "JPEG", quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with images/ and labels/ of the sarcoma CTs")
    parser.add_argument("--keep", type=Path, help="folder for the logs, pictures and masks; else they are removed")
    parser.add_argument("--picture", type=Path, help="where the picture of the page goes, JPEG")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("dicomweb_client").setLevel(logging.WARNING)
    install()
    with tempfile.TemporaryDirectory(prefix="ohif-") as temporary:
        folder = Path(temporary)
        try:
            with Services(folder) as services:
                archive = services.archive()
                case, other = cases(options.data, folder)
                instances = store(case, archive, folder)
                store(other, archive, folder)
                failed = run(case, instances, archive, services, options.picture or folder / "page.jpg")
        finally:
            if options.keep:
                keep(folder, options.keep)
    if failed:
        raise SystemExit(f"{len(failed)} wrong: {'; '.join(failed)}")


def keep(folder: Path, to: Path) -> None:
    """Copy what a person may want to look at."""
    to.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix in {".log", ".jsonl", ".png", ".jpg", ".nrrd"}:
            shutil.copy2(path, to)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
