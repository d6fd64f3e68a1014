"""The sharpness and the grain of one volume brought to those of another (Fourier transfer).

With A(f) the mean amplitude of a volume's sections at spatial frequency f, whatever its direction,
the source's sections are filtered by

    H(f) = A_target(f) / A_source(f),   H(0) = 1

A blurred target blurs the source, a noisy one roughens it. Phases stay: what is where stays there.
Yang and Soatto, *FDA*, CVPR 2020, take the lowest amplitudes of single images; of microscopes it
is the high ones that differ, and a volume has one sharpness.
"""

import cv2
import numpy as np

from dataloader.volume import Volume

TILE = 256  # pixels, of what spectra are taken from
LOOKED_AT = 16  # evenly spaced sections
BANDS = 32  # of frequency, from 0 to half a cycle a pixel
GAIN = (0.2, 5.0)  # the least and the most that H may be
KERNEL = 31  # pixels, side of the filter


class SpectrumTransfer:
    """Call it with an image of the source.

    Args:
        gain: H at the middles of ``BANDS`` bands of frequency.
    """

    def __init__(self, gain: np.ndarray) -> None:
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(TILE)] * 2))
        middles = (np.arange(BANDS) + 0.5) / (2 * BANDS)
        response = np.interp(frequency, middles, np.clip(gain, *GAIN))
        whole = np.fft.fftshift(np.fft.ifft2(response).real)
        half, middle = KERNEL // 2, TILE // 2
        near = slice(middle - half, middle + half + 1)
        window = np.hanning(KERNEL + 2)[1:-1]
        kernel = whole[near, near] * np.outer(window, window)
        self.kernel = kernel / kernel.sum()  # H(0) = 1

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W), float32 in [0, 1], as sharp as the target."""
        filtered = cv2.filter2D(image, cv2.CV_32F, self.kernel, borderType=cv2.BORDER_REFLECT_101)
        return np.clip(filtered, 0, 1)


def spectrum_transfer(source: Volume, target: Volume) -> SpectrumTransfer:
    """What makes the source as sharp as the target; reads some sections of both."""
    return SpectrumTransfer(amplitudes(target) / np.maximum(amplitudes(source), 1e-9))


def amplitudes(volume: Volume) -> np.ndarray:
    """Root mean square amplitude of a volume's sections in each of ``BANDS`` bands of frequency."""
    side = min(TILE, *volume.shape[1:])
    window = np.outer(*[np.hanning(side)] * 2)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2))
    bands = np.minimum((frequency * 2 * BANDS).astype(int), BANDS).ravel()  # the last: corners
    power, sizes = np.zeros(BANDS + 1), np.bincount(bands, minlength=BANDS + 1)
    places = np.linspace(0, len(volume) - 1, min(LOOKED_AT, len(volume))).round().astype(int)
    y, x = ((length - side) // 2 for length in volume.shape[1:])
    for index in places:
        tile = volume.scaled(int(index))[y : y + side, x : x + side]
        tile = (tile - tile.mean()) * window
        found = np.abs(np.fft.fft2(tile)).ravel() ** 2 / np.square(window).sum()
        power += np.bincount(bands, found, minlength=BANDS + 1)
    return np.sqrt(power / np.maximum(sizes, 1) / len(places))[:BANDS]
