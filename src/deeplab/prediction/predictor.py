"""One network and one way to label: every photo that is labelled, in whatever command, passes through here."""

from __future__ import annotations

import copy
import math
import warnings
from functools import partial

import numpy as np
import torch

from deeplab.config.labels import LabelSpec
from deeplab.crf import dense_crf
from deeplab.errors import UserError
from deeplab.heads.classifier import Classifier
from deeplab.imaging.photos import PhotoLike, as_photo
from deeplab.model.checkpoint import version_of
from deeplab.model.network import DeepLab
from deeplab.native.upsample_argmax import label_dtype
from deeplab.prediction.fold import folded, for_inference
from deeplab.prediction.inference import finite, predict, predict_labels
from deeplab.prediction.int8 import ranges
from deeplab.prediction.labelling import AS_IT_IS, AUTO, INT8, TORCH, Labelling
from deeplab.prediction.network import Network
from deeplab.prediction.runtimes import engine_network
from deeplab.prediction.runtimes.program import RuntimeNetwork
from deeplab.prediction.sliding import predict_in_windows, slide
from deeplab.prediction.strips import Labelled, confidence_of, predict_whole
from deeplab.prediction.windows import Sliding, Window
from deeplab.system.device import pick_device
from deeplab.system.memory import ran_out_of_memory

# large enough for models that were trained on crops of 513
IN_NEED = Window(513, 513)


class Predictor:
    """Labels photos of any size; may be called from several threads.

    Args:
        network: in eval mode where it is a `DeepLab`; it is used as it is, see `Predictor.of` for one made ready.
        labels: names and colours of its classes.
        device: where its images go.
        how: passes, window and CRF; what it says of engine, precision, device and stride is `of`'s to heed.
        engine: what computes the network.
        output_stride: of the network.

    Raises:
        UserError: a CRF for photos of more than 8 bits.
    """

    def __init__(
        self,
        network: Network,
        labels: LabelSpec,
        *,
        device: torch.device,
        how: Labelling = AS_IT_IS,
        engine: str = TORCH,
        output_stride: int,
    ) -> None:
        if how.crf is not None and network.config.pixels.values != "uint8":
            raise UserError(
                "the CRF's sigma_beta is in steps of 8 bits, and this model reads "
                f"{network.config.pixels.values}",
                fix="leave out the CRF",
            )
        self.network, self.labels, self.device, self.how = network, labels, device, how
        self.engine, self.output_stride = engine, output_stride

    @classmethod
    def as_it_is(cls, model: DeepLab, how: Labelling = AS_IT_IS) -> Predictor:
        """The model itself, as in training: neither copied nor folded nor moved."""
        device = next(model.parameters()).device
        return cls(model, model.labels, device=device, how=how, output_stride=model.output_stride)

    @classmethod
    def of(cls, model: DeepLab, how: Labelling = AS_IT_IS) -> Predictor:
        """A copy of the model made ready as `how` says; the one given is left as it is.

        Raises:
            UserError: no such device, output stride or engine, the engine cannot run this model so, or a threshold for
                a model of another number of classes than two.
        """
        device = pick_device(how.device)
        if how.threshold is not None:
            model = _at_threshold(model, how.threshold)
        # auto changes no label of several passes: other engines take resized photos rounded
        torch_only = not how.one_pass or how.seams != "blend"
        engine = TORCH if how.engine == AUTO and torch_only else how.engine
        if model.config.pixels.bands:
            if how.engine not in (AUTO, TORCH) or how.precision == INT8:
                raise UserError(
                    f"engine {how.engine} is given 8-bit RGB photos, and this model reads the bands "
                    f"{', '.join(model.config.pixels.bands)}",
                    fix=f"engine {TORCH}, without int8",
                )
            engine = TORCH
        if engine != TORCH:
            source = _at_stride(folded(model).eval(), how.output_stride)
            found = engine_network(
                source,
                engine,
                device=device,
                precision=how.precision,
                calibration=[as_photo(photo) for photo in how.calibration],
            )
            if found is not None:
                name, run = found
                network = RuntimeNetwork(run, source, version=version_of(source), one_pass=how.one_pass)
                stride = source.output_stride
                return cls(network, model.labels, device=device, how=how, engine=name, output_stride=stride)
        ready = _at_stride(_made_ready(model, device, how), how.output_stride)
        return cls(ready, model.labels, device=device, how=how, output_stride=ready.output_stride)

    def photo(self, image: PhotoLike) -> np.ndarray:
        """A photo as the model takes it: uint8 [H, W, 3] RGB, or the bands that it reads, [H, W, bands].

        Raises:
            UserError: it cannot be read, or is not what the model is for; it names the file.
        """
        return as_photo(image, self.network.config.pixels.read_as())

    def labels_of(self, photo: np.ndarray) -> torch.Tensor:
        """uint8 [H, W], uint16 above 256 classes, on the CPU, of a photo as `photo` gives it."""
        how = self.how
        if how.one_pass and how.window is None and how.crf is None:
            try:
                return predict_labels(self.network, self.images(photo))["semantic"][0].cpu()
            except Exception as error:
                _refuse_unless_memory(error)
            return self._in_windows(photo).labels.to(label_dtype(self.network.config.num_classes))
        return self.label(photo).labels.to(label_dtype(self.network.config.num_classes))

    def label(self, photo: np.ndarray, *, confidence: bool = False) -> Labelled:
        """Labels and, if asked for, the probability of each, on the CPU.

        Args:
            photo: see `photo`.
            confidence: they take as long as the labels or longer.
        """
        how = self.how
        label = predict_whole
        if how.window is not None:
            label = partial(predict_in_windows, window=how.window, seams=how.seams)
        try:
            if how.crf is not None:
                labels, marginals = self.probabilities_of(photo)
                return Labelled(labels, confidence_of(marginals, labels) if confidence else None)
            images = self.images(photo)
            return label(self.network, images, scales=how.scales, flip=how.flip, confidence=confidence).cpu()
        except Exception as error:
            _refuse_unless_memory(error)
        return self._in_windows(photo, confidence=confidence)

    def probabilities_of(self, photo: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels int64 [H, W] and probabilities float32 [C, H, W], summing to 1 over C, on the CPU.

        Of one pass, labels are those of the logits: rounded probabilities can be equal where logits are not. With a
        CRF probabilities are its marginals; it runs once, on what all passes average to.

        Raises:
            UserError: `how` has windows, which are there not to hold them.
        """
        how = self.how
        if how.window is not None:
            raise UserError("windows keep no probabilities of the whole photo", fix="leave out the window")
        passed = predict(self.network, self.images(photo), scales=how.scales, flip=how.flip)["semantic"]
        labels, found = passed.labels[0].cpu(), passed.probabilities[0].float().cpu()
        if how.crf is None:
            return labels, found
        marginals = dense_crf(found, photo, parameters=how.crf)
        return marginals.argmax(0), marginals

    def sliding(self, size: tuple[int, int]) -> Sliding:
        """The way in windows through a photo of this height and width, which is not held whole; of the usual size
        where `how` names none.

        Raises:
            UserError: see `deeplab.prediction.sliding.slide`.
        """
        how = self.how
        return slide(self.network, size, window=how.window, seams=how.seams, scales=how.scales, flip=how.flip)

    @torch.inference_mode()
    def logits_of(self, photo: np.ndarray) -> torch.Tensor:
        """float32 [C, h, w] on the CPU, of one pass on the network's own grid."""
        return finite(self.network.low_resolution_logits(self.images(photo)))["semantic"][0].float().cpu()

    def _in_windows(self, photo: np.ndarray, *, confidence: bool = False) -> Labelled:
        """What `label` gives where memory ran out for it. By now all that it took is freed again."""
        how, size = self.how, f"{photo.shape[0]} x {photo.shape[1]}"
        whole = how.window is None and how.crf is None
        if whole and max(photo.shape[:2]) > IN_NEED.height:
            warnings.warn(
                f"memory ran out for a photo of {size} as a whole; it is labelled in windows of {IN_NEED.height} x "
                f"{IN_NEED.width}, which may change labels here and there (fix: --window says which)",
                stacklevel=4,
            )
            try:
                images = self.images(photo)
                return predict_in_windows(
                    self.network,
                    images,
                    window=IN_NEED,
                    scales=how.scales,
                    flip=how.flip,
                    confidence=confidence,
                ).cpu()
            except Exception as error:
                _refuse_unless_memory(error)
        raise UserError(
            f"memory ran out for a photo of {size}",
            fix="leave the CRF away"
            if how.crf
            else "a smaller --window, smaller or fewer --scales, or a smaller photo",
        )

    def images(self, photo: np.ndarray) -> torch.Tensor:
        """A photo, as `photo` gives it, as the network takes it: [1, channels, H, W] on its device."""
        if photo.dtype == np.uint16:
            # of which torch computes little
            photo = photo.astype(np.float32)
        return torch.from_numpy(photo).permute(2, 0, 1)[None].to(self.device)


def _refuse_unless_memory(error: Exception) -> None:
    if not ran_out_of_memory(error):
        raise error


def _made_ready(model: DeepLab, device: torch.device, how: Labelling) -> DeepLab:
    if how.precision != INT8:
        return for_inference(model, device=device, precision=how.precision)
    if model.eight_bit:
        raise UserError(f"precision {INT8}: this model computes in 8 bits of its own", fix="leave it out")
    found = ranges(_at_stride(folded(model).eval(), how.output_stride), list(map(as_photo, how.calibration)))
    return for_inference(model, device=device, ranges=found)


def _at_threshold(model: DeepLab, threshold: float) -> DeepLab:
    if len(model.labels.classes) != 2 or not model.classifiers or model.eight_bit:
        kind = "one that computes in 8 bits" if model.eight_bit else f"{len(model.labels.classes)} classes"
        raise UserError(
            f"threshold {threshold:g} goes with a model of two classes and a classifier; this one has {kind}",
            fix="leave the threshold away",
        )
    result = copy.deepcopy(model)
    classifier = result.classifiers["semantic"]
    assert isinstance(classifier, Classifier)
    if classifier.sigmoid is not None:
        classifier.sigmoid = threshold
        result.config = result.config.model_copy(update={"sigmoid": threshold})
    else:
        bias = classifier.convs[0].bias
        assert bias is not None
        with torch.no_grad():
            bias[0] += math.log(threshold / (1 - threshold))
    return result


def _at_stride(model: DeepLab, output_stride: int | None) -> DeepLab:
    if output_stride is not None:
        try:
            model.output_stride = output_stride
        except ValueError as error:
            raise UserError(str(error)) from None
    return model
