"""The networks give what their sources' wiring gives, with the same weights.

The references are written out here from the sources' descriptions, in another manner than the
networks; weights go over by position, and every tensor must fit.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkit.models import build
from segkit.models.blocks import crop, upsample


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the weights of `source`, and both lively batch statistics."""
    torch.manual_seed(0)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)  # so that the deepest level counts
    theirs, ours = target.state_dict(), source.state_dict()
    assert [t.shape for t in theirs.values()] == [t.shape for t in ours.values()]
    target.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))


def assert_same(network: nn.Module, reference: nn.Module, *shape: int, training: bool = False):
    copy_weights(network, reference)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    network.train(training), reference.train(training)
    got, expected = network(x), reference(x)
    assert expected.std() > 0.1, "the comparison would see nothing"
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def cbr(inputs: int, outputs: int, bias: bool = True, norm: bool = True, pad: int = 1, d: int = 1):
    layers = [nn.Conv2d(inputs, outputs, 3, padding=pad * d, dilation=d, bias=bias)]
    return [*layers, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]


# -- DumbNet --------------------------------------------------------------------------------------


class SeedDumbNet(nn.Module):
    def __init__(self):
        super().__init__()
        first = nn.Conv2d(3, 16, kernel_size=3, padding=1, stride=2)
        self.down = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.up = nn.Sequential(grow, *cbr(16, 16))
        self.out = nn.Conv2d(16, 3, kernel_size=1)

    def forward(self, x):
        return self.out(self.up(self.down(x)))


@pytest.mark.parametrize("size", [(64, 64), (38, 50)])
def test_dumbnet(size):
    assert_same(build("dumbnet", 3, 3), SeedDumbNet(), 2, 3, *size)


# -- U-Net ----------------------------------------------------------------------------------------


class ReferenceUNet(nn.Module):
    """Five blocks down, four up; how they go down, up and meet the skips is handed in."""

    def __init__(self, down, up, meet, inputs=3, classes=1, w=4, **block):
        super().__init__()
        c = [inputs, w, 2 * w, 4 * w, 8 * w, 16 * w]
        self.meet = meet
        two = lambda a, b: nn.Sequential(*cbr(a, b, **block), *cbr(b, b, **block))  # noqa: E731
        self.one, self.two, self.three, self.four = (two(c[i], c[i + 1]) for i in range(4))
        self.downs = nn.ModuleList(down(c[i + 1]) for i in range(4))
        self.five = two(c[4], c[5])
        steps = [(up(c[i + 1], c[i]), two(2 * c[i], c[i])) for i in (4, 3, 2, 1)]
        self.ups = nn.ModuleList(map(nn.ModuleList, steps))
        self.head = nn.Conv2d(w, classes, 1)

    def forward(self, x):
        d, (u, b) = self.downs, zip(*self.ups, strict=True)
        x1 = self.one(x)
        x2 = self.two(d[0](x1))
        x3 = self.three(d[1](x2))
        x4 = self.four(d[2](x3))
        y = self.five(d[3](x4))
        y = b[0](self.meet(x4, u[0](y)))
        y = b[1](self.meet(x3, u[1](y)))
        y = b[2](self.meet(x2, u[2](y)))
        return self.head(b[3](self.meet(x1, u[3](y))))


def pool(channels):
    return nn.MaxPool2d(2)


def strided(channels):
    return nn.Conv2d(channels, channels, 3, stride=2, padding=1)


def transposed(inputs, outputs):
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)


def nearest(inputs, outputs):
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1))


def bilinear(inputs, outputs):
    grow = nn.Upsample(scale_factor=2, mode="bilinear")
    return nn.Sequential(grow, nn.Conv2d(inputs, outputs, 1))


def side_by_side(skip, y):
    return torch.cat([skip, y], dim=1)


def padded_to_skip(skip, y):
    dy, dx = skip.shape[2] - y.shape[2], skip.shape[3] - y.shape[3]
    return torch.cat([skip, F.pad(y, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))], dim=1)


def cropped_to_middle(skip, y):
    top, left = (skip.shape[2] - y.shape[2]) // 2, (skip.shape[3] - y.shape[3]) // 2
    middle = skip[:, :, top : top + y.shape[2], left : left + y.shape[3]]
    return torch.cat([middle, y], dim=1)


def test_unet_of_milesial():
    reference = ReferenceUNet(pool, transposed, padded_to_skip, bias=False)
    assert_same(build("unet", width=4), reference, 2, 3, 64, 96)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("down", [pool, strided])
@pytest.mark.parametrize("up", [transposed, nearest])
def test_unet_of_abi2024(down, up, training):
    network = build("unet", width=4, bias=True, down=_name(down), up=_name(up))
    assert_same(network, ReferenceUNet(down, up, side_by_side), 2, 3, 64, 96, training=training)


def _name(function) -> str:
    return {"pool": "maxpool"}.get(function.__name__, function.__name__)


def test_unet_of_the_nycu_lab_interpolates_before_its_1x1_convolution():
    network = build("unet", width=4, bias=True, up="bilinear")
    reference = ReferenceUNet(pool, bilinear, side_by_side)
    # Ours stands the other way round, which costs a quarter: the names of the weights differ.
    assert all(isinstance(up[0][0], nn.Upsample) for up in reference.ups)
    assert all(isinstance(up.upsample[1], nn.Upsample) for up in network.decoder)
    assert_same(network, reference, 2, 3, 64, 96)


def test_unet_of_the_paper():
    network = build("unet", 1, 2, width=4, norm=False, padding="valid")
    reference = ReferenceUNet(pool, transposed, cropped_to_middle, 1, 2, norm=False, pad=0)
    assert_same(network, reference, 1, 1, 220, 252)


def test_cropping_keeps_every_pixel_where_it_was():
    for size in range(1, 9):
        row = torch.arange(size, dtype=torch.float32).expand(1, 1, size, size)
        half = F.max_pool2d(row, 2, ceil_mode=True)
        back = crop(F.interpolate(half, scale_factor=2), like=row)
        owner = torch.arange(size) // 2  # pixel 2i and 2i + 1 both come from pixel i
        assert torch.equal(back[0, 0, 0], (2 * owner + 1).clamp(max=size - 1).float())


def test_an_odd_size_gives_the_logits_of_the_next_even_one_where_it_cannot_see_the_border():
    network = build("unet", width=4, depth=2).eval()
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    odd, even = network(x[..., :95, :95]), network(x)
    torch.testing.assert_close(odd[..., :40, :40], even[..., :40, :40])


@pytest.mark.parametrize("mode", ["transposed", "nearest", "bilinear"])
def test_upsampling_doubles(mode):
    assert upsample(mode, 6, 3)(torch.zeros(1, 6, 5, 7)).shape == (1, 3, 10, 14)


# -- PDR-UNet -------------------------------------------------------------------------------------


class ReferencePDRUNet(nn.Module):
    """Table-driven: per block its dilation, the block whose output joins its input, and taps.

    The letters are the short sums: a tap keeps the running map, an add puts it back on.
    """

    TABLE = (
        (1, None, "A", ""), (2, None, "", "A"), (4, None, "B", ""), (8, None, "", "B"),
        (16, None, "", ""), (32, None, "", ""), (32, None, "", ""), (32, None, "C", ""),
        (16, 5, "", "C"), (8, 4, "D", ""), (4, 3, "", "D"), (2, 2, "", ""), (1, 1, "", ""),
    )  # fmt: skip

    def __init__(self, inputs, classes, filters, shortcut, norm=True):
        super().__init__()
        self.shortcut = shortcut
        self.convolutions = nn.ModuleList()
        for number, (dilation, *_) in enumerate(self.TABLE):
            first = cbr(inputs if number == 0 else filters, filters, norm=norm, d=dilation)
            second = cbr(filters, filters, norm=norm, d=dilation)[:-1]
            self.convolutions += [nn.Sequential(*first), nn.Sequential(*second)]
        self.head = nn.Conv2d(filters, classes, 1)

    def block(self, number, x):
        first = self.convolutions[2 * number](x)
        second = self.convolutions[2 * number + 1](first)
        if number == 0:
            return F.relu(second)
        return F.relu(second + {"first-conv": first, "input": x}[self.shortcut])

    def forward(self, x):
        outputs, taps = {}, {}
        for number, (_, joined, tap, add) in enumerate(self.TABLE):
            x = x if joined is None else x + outputs[joined]
            x = outputs[number + 1] = self.block(number, x)
            x = x + taps[add] if add else x
            if tap:
                taps[tap] = x
        return self.head(x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("shortcut", ["first-conv", "input"])
def test_pdr_unet(shortcut, norm, training):
    network = build("pdr_unet", 1, 2, filters=4, shortcut=shortcut, norm=norm, dropout=0.0)
    reference = ReferencePDRUNet(1, 2, 4, shortcut, norm)
    assert_same(network, reference, 2, 1, 33, 40, training=training)


# -- FusionNet ------------------------------------------------------------------------------------


class ReferenceFusionNet(nn.Module):
    def __init__(self, w, share):
        super().__init__()
        self.share = share
        c = [1, w, 2 * w, 4 * w, 8 * w, 16 * w]
        pairs = [(c[i], c[i + 1]) for i in range(5)]
        self.down = nn.ModuleList(self.unit(a, b) for a, b in pairs)
        self.up = nn.ModuleList()
        for a in c[4:0:-1]:
            grow = nn.ConvTranspose2d(2 * a, a, 3, stride=2, padding=1, output_padding=1)
            self.up.append(nn.ModuleList([nn.Sequential(grow, *cbr(a, a)[1:]), self.unit(a, a)]))
        self.head = nn.Conv2d(w, 1, 1)

    def unit(self, a, b):
        inner = nn.Sequential(*cbr(b, b), *cbr(b, b), *cbr(b, b)[:-1])
        return nn.ModuleList([nn.Sequential(*cbr(a, b)), inner, nn.Sequential(*cbr(b, b))])

    def run(self, unit, x):
        x = unit[0](x)
        return unit[2](x + unit[1](x))

    def forward(self, x):
        skips = []
        for unit in self.down[:4]:
            x = self.run(unit, x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.run(self.down[4], x)
        for grow, unit in self.up:
            x = self.run(unit, (grow(x) + skips.pop()) * self.share)
        return self.head(x)


def test_fusionnet():
    assert_same(build("fusionnet", 1, 1, width=4), ReferenceFusionNet(4, share=1), 2, 1, 64, 48)


def test_fusionnet_does_not_care_whether_skips_are_summed_or_averaged():
    network, reference = build("fusionnet", 1, 1, width=4), ReferenceFusionNet(4, share=0.5)
    copy_weights(network, reference)
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    got, expected = network.train()(x), reference.train()(x)
    assert (got - expected).abs().max() < 0.02 * expected.std()
