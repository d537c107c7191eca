import numpy as np
import pytest

from lightning_diff.data import PhotoPatches


def test_patches_are_cut_from_the_photographs_and_no_pixel_is_shared():
    from sklearn.datasets import load_sample_images

    data = PhotoPatches(8, size=32, stride=32)
    photographs = load_sample_images().images
    assert (data.shape, data.num_classes) == ((3, 32, 32), 2)
    assert 0.5 < data.sigma_data < 0.8
    rows, train_columns, test_columns = 427 // 32, 480 // 32, 160 // 32
    for patches, columns, left in ((data.train, train_columns, 0), (data.test, test_columns, 480)):
        assert len(patches) == 2 * rows * columns
        for i in (0, columns + 1, len(patches) - 1):
            photo, place = divmod(i, rows * columns)
            y, x = (32 * k for k in divmod(place, columns))
            expected = photographs[photo][y : y + 32, left + x : left + x + 32]
            assert np.array_equal(patches.pixels[i].permute(1, 2, 0), expected)
            assert patches.labels[i] == photo


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"size.*200"):
        PhotoPatches(8, size=200)
    with pytest.raises(ValueError, match="stride"):
        PhotoPatches(8, stride=0)
