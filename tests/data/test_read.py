import re
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segkit.data import read
from segkit.errors import DataError
from segkit.image_ops import read_image
from segkit.issues import joined


@pytest.fixture
def save(tmp_path):
    def write(array_or_picture, name="a.png", **options):
        picture = array_or_picture
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def noise(*shape, top=256):
    return np.random.default_rng(0).integers(0, top, shape).astype(np.uint8)


def refused(reader, file, *words):
    with pytest.raises(DataError) as error:
        reader(file)
    for word in (str(file), *words):
        assert word in str(error.value)


# Images


def test_colour_and_grey_and_asked_channels(save):
    colour, grey = noise(9, 7, 3), noise(9, 7)
    assert np.array_equal(read.image(save(colour, "c.png")), colour)
    assert np.array_equal(read.image(save(grey, "g.png")), grey)
    three = read.image(save(grey, "g.png"), channels=3)
    assert three.shape == (9, 7, 3)  # and back without loss
    assert np.array_equal(read.image(save(three, "3.png"), channels=1), grey)
    luminance = read.image(save(colour, "c.png"), channels=1)
    assert np.abs(luminance - colour @ (0.299, 0.587, 0.114)).max() <= 0.51


def test_palette_and_bilevel_images(save):
    colour = noise(8, 8, 3, top=4) * 60
    palette = Image.fromarray(colour).quantize(64)
    assert np.array_equal(read.image(save(palette, "p.png")), np.array(palette.convert("RGB")))
    bilevel = save(Image.fromarray(noise(8, 8)).convert("1"), "1.png")
    assert set(read.image(bilevel).flat) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped_and_real_transparency_refused(save, mode):
    picture = Image.fromarray(noise(6, 5, 3)).convert(mode)
    kept = read.image(save(picture, "opaque.png"))
    assert np.array_equal(kept, np.array(picture.convert("L" if mode == "LA" else "RGB")))
    picture.putpixel((2, 3), (9, 9, 9, 254) if mode == "RGBA" else (9, 254))
    refused(read.image, save(picture, "clear.png"), "transparent", "Image.alpha_composite")


def test_a_transparent_colour_counts_only_where_it_shows(save):
    black = np.zeros((4, 4, 3), np.uint8)
    assert read.image(save(black, "a.png", transparency=(1, 2, 3))).max() == 0
    refused(read.image, save(black, "b.png", transparency=(0, 0, 0)), "transparent")


def test_cmyk_16_bit_and_float_images_are_refused(save, tmp_path):
    refused(read.image, save(Image.new("CMYK", (4, 4)), "a.jpg"), "CMYK", '.convert("RGB")')
    deep = (noise(4, 4, 3).astype(np.uint16)) * 257
    for name in ("rgb16.png", "rgb16.tif"):
        cv2.imwrite(str(tmp_path / name), deep)
    save(deep[..., 0], "grey16.png")
    save(Image.new("F", (4, 4)), "float.tif")
    save(Image.new("I", (4, 4)), "int.tif")
    for file in [*tmp_path.glob("*16.*"), tmp_path / "float.tif", tmp_path / "int.tif"]:
        refused(read.image, file, "more than 8 bits", "intensity=percentile")
        refused(read.image_header, file, "more than 8 bits")


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_an_exif_rotation_is_refused_or_applied(save, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = noise(6, 10, 3)
    file = save(stored, "turned.png", exif=exif)
    refused(read.image, file, f"EXIF orientation {turn}", "exif_transpose")
    refused(read.image_header, file, f"EXIF orientation {turn}")
    refused(read.mask, save(stored[..., 0], "mask.png", exif=exif), "EXIF orientation")
    steps = {3: 2, 6: 3, 8: 1}[turn]  # anticlockwise quarter turns
    assert np.array_equal(read_image(file)[0], np.rot90(stored, steps))
    for upright in (0, 1):
        exif[0x0112] = upright
        assert read.image(save(stored, exif=exif)).shape == (6, 10, 3)


def test_a_rotation_noted_behind_the_pixels_of_a_png_is_found(save):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = save(noise(6, 10), exif=exif)
    content = file.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    last = content.index(b"IEND") - 4
    file.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    refused(read.image, file, "EXIF orientation 6")
    refused(read.mask, file, "EXIF orientation 6")
    assert read_image(file)[0].shape == (10, 6)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("reader", [read.image, read.mask])
def test_truncated_files_are_refused(save, suffix, reader):
    file = save(noise(64, 64), f"a.{suffix}")
    content = file.read_bytes()
    for share in (0, 0.1, 0.5, 0.9):
        file.write_bytes(content[: int(len(content) * share)])
        refused(reader, file, "cannot be read", "fetch it again")


def test_more_pixels_than_pillow_opens_are_refused_as_that(save, monkeypatch):
    file = save(noise(9, 9))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    refused(read.image, file, "more pixels than Pillow opens", "MAX_IMAGE_PIXELS")


@pytest.mark.parametrize("reader", [read.image, read.mask, read.image_header])
def test_what_is_no_picture_is_refused(tmp_path, reader):
    for content in (b"", b"<html>404 not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(50)):
        (tmp_path / "a.png").write_bytes(content)
        refused(reader, tmp_path / "a.png", "cannot be read")
    refused(reader, tmp_path / "none.png", "there is no such file")


@pytest.mark.parametrize("reader", [read.image, read.mask])
def test_several_pictures_in_one_file_are_refused(save, reader):
    frames = [Image.fromarray(noise(4, 4) // (i + 1)) for i in range(2)]
    file = save(frames[0], "a.tif", save_all=True, append_images=frames[1:])
    refused(reader, file, "holds several pictures", "2 pictures")


def test_a_header_shows_size_and_channels(save):
    assert read.image_header(save(noise(6, 10, 3), "c.jpg")) == ((6, 10), 3)
    assert read.image_header(save(noise(6, 10), "g.jpg")) == ((6, 10), 1)


def test_impossible_options_are_refused(save):
    with pytest.raises(ValueError, match="channels=2: choose 1"):
        read.image(save(noise(4, 4)), channels=2)
    with pytest.raises(ValueError, match="size=0"):
        read.as_size(0)
    assert read.as_size(5) == (5, 5) and read.as_size((4, 6)) == (4, 6)


# Masks


def test_ids_bilevel_and_palette_masks_keep_their_values(save):
    ids = noise(9, 7, top=5)
    assert np.array_equal(read.mask(save(ids, "ids.png")), ids)
    palette = Image.fromarray(ids)
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9, 7, 7, 7])
    assert np.array_equal(read.mask(save(palette, "palette.png")), ids)
    bilevel = Image.fromarray(ids > 2)
    assert bilevel.mode == "1"
    assert np.array_equal(read.mask(save(bilevel, "bilevel.png")), (ids > 2).astype(np.uint8))


def test_a_mask_saved_as_equal_channels_is_read_and_a_coloured_one_refused(save):
    ids = noise(9, 7, top=5)
    same = np.stack([ids] * 3, axis=2)
    assert np.array_equal(read.mask(save(same, "same.png")), ids)
    assert np.array_equal(read.mask(save(Image.fromarray(same).convert("RGBA"), "a.png")), ids)
    same[0, 0] = 200, 0, 0
    refused(
        read.mask,
        save(same, "red.png"),
        "6 colours: #000000, #010101, #020202, #",
        "name the class of each colour, as --values '#000000=background,#ff0000=disc'",
    )
    refused(read.mask, save(noise(64, 64, 3), "photo.png"), "hundreds of colours")


def test_a_table_gives_each_value_its_id(save):
    stored = np.array([[0, 128, 255], [128, 0, 0]], np.uint8)
    table = {0: 3, 128: 0, 255: 255, 7: 1}
    wanted = [[3, 0, 255], [0, 3, 3]]
    assert read.mask(save(stored), table=table).tolist() == wanted
    assert read.mask(save(np.stack([stored] * 3, axis=2)), table=table).tolist() == wanted
    large = read.mask(save(stored), (4, 6), table)
    assert large.dtype == np.uint8 and np.array_equal(large, np.kron(wanted, np.ones((2, 2))))
    message = r"a\.png: a mask with a value that the table of classes lacks \(it holds 128, 255\): "
    with pytest.raises(DataError, match=f"{message}correct the mask, or give the value a class or"):
        read.mask(save(stored), table={0: 0})


def test_a_table_of_colours_gives_each_its_id(save):
    rgb = np.array([[(0, 0, 0), (255, 0, 0)], [(0, 0, 1), (1, 0, 0)]], np.uint8)
    table = {(0, 0, 0): 2, (255, 0, 0): 0, (0, 0, 1): 1, (1, 0, 0): 255}
    for picture in (Image.fromarray(rgb), Image.fromarray(rgb).convert("RGBA"),
                    Image.fromarray(rgb).quantize(4)):  # fmt: skip
        assert read.mask(save(picture), table=table).tolist() == [[2, 0], [1, 255]]
    grey = np.array([[0, 128]], np.uint8)
    assert read.mask(save(grey), table={(0, 0, 0): 0, (128, 128, 128): 1}).tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"\(it holds #0000ff, #0100ff, .*, #0700ff, …\)"):
        many = [[(i, 0, 255) for i in range(12)]]
        read.mask(save(np.array(many, np.uint8)), table={(0, 0, 0): 0})
    clear = Image.fromarray(rgb).convert("RGBA")
    clear.putalpha(9)
    with pytest.raises(DataError, match="transparent"):
        read.mask(save(clear), table=table)


@pytest.mark.parametrize(
    "mask",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.int32),
     Image.new("CMYK", (4, 4))],
)  # fmt: skip
def test_float_and_16_bit_masks_are_refused(save, mask):
    words = "class ids 0..255 in 8 bits", 'ids.astype("uint8")'
    refused(read.mask, save(mask, "a.tif"), *words)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_the_remedy_for_a_deep_mask_repairs_it(save, tmp_path, dtype):
    mask = np.zeros((4, 4), dtype)
    mask[1:3, 1:3] = 65535
    with pytest.raises(DataError) as refusal:
        read.mask(save(mask, "a.tif"))
    (numbering,) = re.findall(r"ids = (.*?) does", str(refusal.value))
    (saving,) = re.findall(r"save (Image.*?) as 8-bit PNG", str(refusal.value))
    ids = eval(numbering, {"np": np, "mask": mask})
    eval(saving, {"Image": Image, "ids": ids}).save(tmp_path / "b.png")
    assert np.array_equal(read.mask(tmp_path / "b.png"), mask == 65535)


def test_a_stretched_low_bit_grey_png_is_refused(tmp_path):
    # Pillow cannot write one: 2 bits a pixel, grey, one row of the values 0 1 2 3.
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    pixels = zlib.compress(bytes([0, 0b00011011]))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    assert read.image(tmp_path / "a.png").tolist() == [[0, 85, 170, 255]]
    refused(read.mask, tmp_path / "a.png", "0..255 in 8 bits", "L;2", "8-bit PNG")


@pytest.mark.parametrize("size", [(5, 9), (8, 8), (40, 23), (16, 12), (77, 100)])
def test_a_resized_mask_takes_the_value_under_each_pixels_centre(save, size):
    rows, columns = np.mgrid[:16, :12].astype(np.uint8)
    for stored, axis in ((rows, 0), (columns, 1)):
        resized = read.mask(save(stored), size).astype(int)
        centres = (np.arange(size[axis]) + 0.5) * stored.shape[axis] / size[axis]
        centres = centres[:, None] if axis == 0 else centres[None]
        # Half a pixel away at most: the centre lies within the pixel taken, or on its edge.
        assert np.abs(resized + 0.5 - centres).max() <= 0.5 + 1e-9


def test_resizing_a_mask_agrees_with_nearest_exact(save):
    ids = noise(64, 48, top=7)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(ids)[None, None].float(), (37, 29), mode="nearest-exact"
    )
    assert np.array_equal(read.mask(save(ids), (37, 29)), wanted[0, 0].numpy())


def test_images_shrink_with_antialiasing(save):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    shrunk = read.image(save(stripes), size=(16, 16))
    assert shrunk.shape == (16, 16)
    assert np.abs(shrunk[:, 1:-1].astype(int) - 127).max() <= 8  # neither all black nor all white


def test_messages_are_listed_together():
    assert joined(["only one"], "here") == "only one"
    many = joined([f"issue {i}" for i in range(11)], "here").splitlines()
    assert (many[0], many[1], many[-1]) == ("11 faults in here:", "- issue 0", "- and 3 more")
