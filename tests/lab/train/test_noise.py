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
def test_noise_and_velocity_are_those_of_the_schedule_in_double_precision(zero_snr):
    schedule = NoiseSchedule.of(scheduler(zero_snr=zero_snr))
    clean, noise = latents(0), latents(1)
    left = schedule.scheduler.alphas_cumprod[TIMES].double().view(-1, 1, 1, 1)
    noisy = left.sqrt() * clean + (1 - left).sqrt() * noise
    velocity = left.sqrt() * noise - (1 - left).sqrt() * clean
    torch.testing.assert_close(schedule.noisy(clean, noise, TIMES), noisy.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(schedule.target(clean, noise, TIMES), velocity.float(), rtol=1e-5, atol=1e-6)
    assert len(schedule) == 1000


def test_what_is_predicted_is_the_model_s_own_unless_told():
    assert NoiseSchedule.of(scheduler("epsilon")).prediction == "epsilon"
    assert NoiseSchedule.of(scheduler("epsilon"), "v_prediction").prediction == "v_prediction"
    assert torch.equal(NoiseSchedule.of(scheduler("epsilon")).target(latents(0), latents(1), TIMES), latents(1))
    with pytest.raises(ValueError, match="predicts sample, expected"):
        NoiseSchedule.of(scheduler("sample"))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_right_prediction_has_no_loss(prediction):
    schedule = NoiseSchedule.of(scheduler(), prediction)
    clean, noise = latents(0), latents(1)
    right = schedule.target(clean, noise, TIMES)
    assert float(schedule.loss(right, clean, noise, TIMES).sum()) == 0
    torch.testing.assert_close(schedule.loss(right + 2, clean, noise, TIMES), torch.full((5,), 4.0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_is_one_weight_in_the_units_of_either_prediction(prediction):
    """Both are min(snr, gamma) on the clean latents."""
    schedule = NoiseSchedule.of(scheduler(), prediction, min_snr_gamma=5.0)
    left = schedule.scheduler.alphas_cumprod[TIMES].double()
    snr = left / (1 - left)
    per_clean = snr if prediction == "epsilon" else snr + 1  # error of the clean latents in that of the prediction
    expected = snr.clamp_max(5.0) / per_clean
    expected = torch.where(per_clean == 0, 1.0, expected)
    weights = schedule.weights(TIMES)
    torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-6)
    clean, noise = latents(0), latents(1)
    losses = schedule.loss(schedule.target(clean, noise, TIMES) + 2, clean, noise, TIMES)
    torch.testing.assert_close(losses, 4 * weights, rtol=1e-5, atol=1e-6)


def test_places_count_as_much_as_they_are_told():
    """Twice the weight everywhere changes nothing; with none elsewhere the mean is that of one place."""
    schedule, given = NoiseSchedule.of(scheduler()), (latents(0), latents(1), latents(2), TIMES)
    plain = schedule.loss(*given)
    places = torch.ones(len(TIMES), *latents(0).shape[2:])
    torch.testing.assert_close(schedule.loss(*given, places * 2), plain)
    one = torch.zeros_like(places)
    one[:, 1, 0] = 3
    errors = (given[0] - schedule.target(*given[1:])).square().mean(1)
    torch.testing.assert_close(schedule.loss(*given, one), errors[:, 1, 0])
    assert not torch.equal(schedule.loss(*given, one), plain)
