"""Answers to the exercises of lesson 03 in other styles than the solutions'."""

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from segkit import check

REFLECT = {"border_mode": cv2.BORDER_REFLECT_101}
FILL = {tv_tensors.Image: 0, tv_tensors.Mask: 255}


def small_moves(**options):
    return A.Affine(**{"rotate": (-10, 10), "p": 0.8} | REFLECT | options)


def light():
    return A.RandomBrightnessContrast(p=0.5)


@pytest.mark.parametrize(
    "answer",
    [
        lambda: A.Compose([small_moves(), light()]),
        lambda: (small_moves(border_mode=cv2.BORDER_CONSTANT, fill_mask=255), light()),
        lambda: [v2.RandomAffine(10, fill=FILL), v2.ColorJitter(brightness=0.3)],
        lambda: v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(contrast=0.3)]),
    ],
)
def test_transforms_of_either_library_pass(answer):
    result = check.upright.grade(answer)
    assert result.status == "passed", result.message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: [A.RandomCrop(48, 48), light()], "another size"),
        (lambda: [small_moves(shear=(-40, 40)), light()], "shear"),
        (lambda: [small_moves(scale=(0.2, 4)), light()], "zoom by a factor"),
        (lambda: [small_moves(), light(), A.InvertImg(p=0.5)], "inverted"),
        (lambda: [small_moves(), light(), A.CoarseDropout(fill_mask=0, p=0.5)], "erased pieces"),
        (lambda: [small_moves(translate_percent=(-0.9, 0.9)), light()], "or a shift"),
        (lambda: [v2.RandomAffine(10), v2.ColorJitter(brightness=0.3)], "background"),
        (lambda: [A.HorizontalFlip, light()], "each one called"),
    ],
)
def test_wrong_transforms_get_a_hint_about_what_is_wrong(answer, words):
    result = check.upright.grade(answer)
    assert result.status == "failed" and words in result.message, result.message


def test_alignment_may_be_tested_with_a_grey_image_and_torch():
    def aligned(transform, mask):
        for _ in range(10):
            image, moved = map(torch.tensor, transform(mask * 255, mask))
            marked, target = image > 130, moved > 0
            if (marked & target).sum() < 0.95 * (marked | target).sum():
                return np.bool_(False)
        return torch.tensor(True)

    assert check.aligned.grade(aligned).status == "passed"
    assert "True or False" in check.aligned.grade(lambda transform, mask: 1).message


def test_a_crop_may_be_a_list_or_a_dictionary():
    def as_dictionary(image, mask, size, rng):
        limits = mask.shape[0] - size, mask.shape[1] - size
        y, x = rng.integers((0, 0), limits, endpoint=True)
        return {"image": image[y : y + size, x : x + size], "mask": mask[y:, x:][:size, :size]}

    def as_list(*args):
        return [torch.from_numpy(part.copy()) for part in as_dictionary(*args).values()]

    for answer in (as_dictionary, as_list):
        assert check.random_crop.grade(answer).status == "passed"
