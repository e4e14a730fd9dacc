"""Every measure of one evaluation, accumulated photo by photo and over processes, equal in any order."""

from __future__ import annotations

from deeplab.errors import UserError
from deeplab.evaluation.bootstrap import ImageCounts
from deeplab.evaluation.boundaries import Boundaries
from deeplab.evaluation.calibration import Calibration
from deeplab.evaluation.instance_iou import InstanceIoU, instance_file, read_instances
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.evaluation.photo_by_photo import Result
from deeplab.evaluation.report.worst import Worst


class Scores:
    """The confusion matrix and counts by photo; the boundaries and calibration if asked for; the worst photos.

    Attributes:
        confusion: over all photos.
        images: hits, labelled and predicted pixels by photo.
        names: of the photos, by number.
        boundaries, calibration: None if they were not asked for.
        instances: Cityscapes' instance-weighted IoU; None for data without instance ids.
        worst: the photos of lowest mean IoU, with small pictures; None if they were not asked for.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_label: int = 255,
        boundaries: Boundaries | None = None,
        calibration: Calibration | None = None,
        instances: InstanceIoU | None = None,
        worst: Worst | None = None,
    ) -> None:
        """Start at zero; the measures given are filled."""
        self.confusion = ConfusionMatrix(num_classes, ignore_label=ignore_label)
        self.images = ImageCounts(num_classes)
        self.names: dict[int, str] = {}
        self.boundaries = boundaries
        self.calibration = calibration
        self.instances = instances
        self.worst = worst

    def update(self, image: int, name: str, result: Result, *, mask: str = "") -> None:
        """Count photo number `image`, whose labels are the file `mask` (asked for by `instances` only).

        Raises:
            UserError: that number was counted before.
        """
        if image in self.names:
            raise UserError(f"photo {image} ({name}) was counted before", fix="number the photos")
        self.names[image] = name
        self.confusion = self.confusion + result.confusion
        self.images.update(image, result.confusion)
        predicted = result.found.labels.numpy()
        if self.boundaries is not None:
            self.boundaries.update(image, result.labels, predicted)
        if self.calibration is not None:
            assert result.found.confidence is not None
            self.calibration.update(result.labels, predicted, result.found.confidence.numpy())
        beside = instance_file(mask) if self.instances is not None else None
        if self.instances is not None and beside is not None:
            self.instances.update(image, read_instances(beside), predicted)
        if self.worst is not None:
            self.worst.update(image, name, result)

    def __add__(self, other: Scores) -> Scores:
        """The measures of both sets of photos, which must share none."""
        total = Scores(self.confusion.num_classes, ignore_label=self.confusion.ignore_label)
        total.confusion = self.confusion + other.confusion
        total.images = self.images + other.images
        total.names = self.names | other.names
        if self.boundaries is not None and other.boundaries is not None:
            total.boundaries = self.boundaries + other.boundaries
        if self.calibration is not None and other.calibration is not None:
            total.calibration = self.calibration + other.calibration
        if self.instances is not None and other.instances is not None:
            total.instances = self.instances + other.instances
        if self.worst is not None and other.worst is not None:
            total.worst = self.worst + other.worst
        return total
