"""InstanceNorm and ReLU in one, against PyTorch's own two."""

import shutil

import pytest
import torch
import torch.nn.functional as F

from model.normalisation import norm_relu


def maps(size: int, dtype: torch.dtype, offset: float = 0.0) -> torch.Tensor:
    """(3, 5, size, size + 3), channels last, each channel of another mean and spread."""
    draw = torch.Generator().manual_seed(size)
    x = torch.randn((3, 5, size, size + 3), generator=draw, dtype=torch.float64)
    x = x * torch.tensor([0.1, 1, 3, 10, 1e-4])[:, None, None] + offset
    return x.to(dtype, memory_format=torch.channels_last)


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_values_and_gradient(offset: float) -> None:
    x = maps(16, torch.float64, offset).requires_grad_()
    gradient = maps(16, torch.float64).sin()
    found, expected = norm_relu(x), F.relu(F.instance_norm(x))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(found, x, gradient)[0],
        torch.autograd.grad(expected, x, gradient)[0],
        rtol=1e-9,
        atol=1e-9,
    )


def test_without_gradient() -> None:
    x = maps(16, torch.float64)
    before = x.clone()
    with torch.inference_mode():
        torch.testing.assert_close(norm_relu(x), F.relu(F.instance_norm(x)))
    torch.testing.assert_close(x, before)


def test_large_maps_keep_their_digits() -> None:
    x = maps(512, torch.float32)
    expected = F.relu(F.instance_norm(x.double()))
    torch.testing.assert_close(norm_relu(x).double(), expected, rtol=0, atol=1e-5)


def test_constant_maps_are_zero() -> None:
    x = torch.full((1, 4, 8, 8), 7.0).to(memory_format=torch.channels_last)
    assert norm_relu(x).abs().max() < 1e-3


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-4), (torch.bfloat16, 0.02)], ids=str
)
def test_compiled_values_and_gradient(dtype: torch.dtype, tolerance: float) -> None:
    x = maps(64, dtype, offset=50.0)[:, :4].contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    gradient = maps(64, torch.float64)[:, :4].sin()
    exact = x.detach().double().requires_grad_()
    expected = F.relu(F.instance_norm(exact))
    found = torch.compile(norm_relu)(x)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    (found,) = torch.autograd.grad(found, x, gradient.to(dtype))
    (expected,) = torch.autograd.grad(expected, exact, gradient)
    largest = expected.abs().amax((2, 3), keepdim=True)
    torch.testing.assert_close(
        found / largest, expected / largest, rtol=0, atol=tolerance, check_dtype=False
    )
