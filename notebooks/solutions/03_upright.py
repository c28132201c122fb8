import albumentations as A
import cv2


def upright():
    """Return a list of transforms that suit an X-ray of a standing leg."""
    return [
        A.HorizontalFlip(p=0.5),  # the other leg
        A.Affine(
            rotate=(-10, 10),
            scale=(0.9, 1.1),
            translate_percent=(-0.05, 0.05),
            border_mode=cv2.BORDER_REFLECT_101,  # or fill_mask=255: no background is invented
            p=0.8,
        ),
        A.RandomBrightnessContrast(p=0.5),  # another exposure
    ]
