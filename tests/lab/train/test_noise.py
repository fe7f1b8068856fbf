"""The training target and its weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from lab.train.noise import NoiseSchedule


def scheduler(prediction="v_prediction", zero_snr=True):
    return DDIMScheduler(
        beta_schedule="scaled_linear", prediction_type=prediction, rescale_betas_zero_snr=zero_snr, clip_sample=False
    )


TIMES = torch.tensor([0, 10, 500, 998, 999])


def latents(seed):
    return torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("zero_snr", [True, False])
def test_agrees_with_diffusers(zero_snr):
    reference = scheduler(zero_snr=zero_snr)
    schedule = NoiseSchedule.of(reference)
    clean, noise = latents(0), latents(1)
    torch.testing.assert_close(schedule.noisy(clean, noise, TIMES), reference.add_noise(clean, noise, TIMES))
    torch.testing.assert_close(schedule.target(clean, noise, TIMES), reference.get_velocity(clean, noise, TIMES))


def test_prediction():
    assert NoiseSchedule.of(scheduler("epsilon")).prediction == "epsilon"
    assert NoiseSchedule.of(scheduler("epsilon"), "v_prediction").prediction == "v_prediction"
    assert torch.equal(NoiseSchedule.of(scheduler("epsilon")).target(latents(0), latents(1), TIMES), latents(1))
    with pytest.raises(ValueError, match="predicts sample, expected"):
        NoiseSchedule.of(scheduler("sample"))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_right_prediction_has_no_loss(prediction):
    schedule = NoiseSchedule.of(scheduler(), prediction)
    clean, noise = latents(0), latents(1)
    right = schedule.target(clean, noise, TIMES)
    assert float(schedule.loss(right, clean, noise, TIMES).sum()) == 0
    torch.testing.assert_close(schedule.loss(right + 2, clean, noise, TIMES), torch.full((5,), 4.0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr(prediction):
    """Both are min(snr, gamma) on the clean latents, in the units of their own prediction."""
    schedule = NoiseSchedule.of(scheduler(), prediction, min_snr_gamma=5.0)
    left = schedule.alphas_cumprod[TIMES].double()
    snr = left / (1 - left)
    per_clean = snr if prediction == "epsilon" else snr + 1  # error of the clean latents in that of the prediction
    expected = snr.clamp_max(5.0) / per_clean
    expected = torch.where(per_clean == 0, 1.0, expected)
    assert bool(schedule.weights(TIMES).isfinite().all())
    torch.testing.assert_close(schedule.weights(TIMES).double(), expected, rtol=1e-4, atol=1e-6)
