"""find_product: what stands out from the ground that the border shows, with a soft edge, or a refusal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.packshots import filled, packshot
from lab.demo.studio.render import render
from lab.demo.studio.scene import sample_scene
from pfv_mepa.pfv_core.ad.shadow import add_contact_shadow
from pfv_mepa.pfv_core.found.product import find_product
from pfv_mepa.pfv_core.found.unsure import EnclosedError, NothingFoundError, UnsureError
from pfv_mepa.pfv_core.found.within import Enclosed

from .found_pictures import BLUE, RED, agreement, ellipse, over, plain
from .weights import seeded

SIZE = (150, 200)


def one(centre=(0.5, 0.5), radii=(0.3, 0.15), size=SIZE):
    return ellipse(size, centre, radii)


def test_a_thing_on_plain_ground_is_found_with_its_soft_edge():
    truth = one()
    found = find_product(over(plain(*SIZE), truth, RED))
    assert (found.opacity - truth).abs().max() <= 0.04  # what is nearer than this to 0 or 1 is taken for noise
    assert bool((found.opacity[truth == 1] == 1).all())
    assert bool((found.opacity[truth == 0] == 0).all())
    assert (found.parts, found.touches) == (1, ())
    assert found.sure > 0.98


@pytest.mark.parametrize("ground", ["gradient", "vignette", "noise", "bands", "stripes"])
def test_grounds_that_are_not_plain(ground):
    height, width = SIZE
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    white = plain(*SIZE)
    grounds = {
        "gradient": white * (0.8 - 0.2 * down),
        "vignette": white * (1 - 0.25 * (down**2 + across**2)),
        "noise": (white - 0.1 + 0.02 * torch.randn(3, *SIZE, generator=seeded(0))),
        "bands": white * torch.where(torch.sin(14 * down) > 0, 1.0, 0.7),
        "stripes": white * torch.where(torch.sin(14 * across) > 0, 1.0, 0.7),
    }
    truth = one()
    found = find_product(over(grounds[ground], truth, RED))
    assert agreement(found.opacity, truth) > 0.97
    assert (found.parts, found.touches) == (1, ())


def test_a_wall_above_a_table_is_ground_and_the_product_between_them_is_not():
    ground = plain(*SIZE, (0.4, 0.6, 0.8))
    ground[:, 100:] = torch.tensor((0.5, 0.35, 0.2)).view(3, 1, 1)
    truth = one((0.6, 0.5), (0.3, 0.15))
    assert agreement(find_product(over(ground, truth, BLUE)).opacity, truth) > 0.97


def test_a_soft_shadow_is_ground():
    truth = one((0.5, 0.5), (0.3, 0.15), (300, 400))
    shaded = add_contact_shadow(plain(300, 400)[None], truth[None] > 0.5, 0.5, 20)[0]
    found = find_product(over(shaded, truth, RED))
    assert agreement(found.opacity, truth) > 0.97
    beside = ellipse((300, 400), (0.5, 0.5), (0.33, 0.17)) == 0
    assert not found.opacity[beside & (shaded[0] < 0.9)].any()


@pytest.mark.parametrize("ground", [(0.2, 0.3, 0.5), (0.45, 0.45, 0.45)])
def test_a_handle_and_its_hole(ground):
    """Of a ground that nothing else has the colour of; a white one is print's and highlights' as well."""
    truth = one(radii=(0.3, 0.25)) * (1 - one(radii=(0.12, 0.1)))
    found = find_product(over(plain(*SIZE, ground), truth, RED))
    assert agreement(found.opacity, truth) > 0.97
    assert found.opacity[75, 100] == 0
    assert found.enclosed_share == pytest.approx(0.16, abs=0.02)
    assert found.left_out_line() == (
        f", {found.enclosed_share:.0%} within its outline taken for holes: it has the ground's colour"
    )


@pytest.mark.parametrize("ground", [(0.92, 0.92, 0.92), (1.0, 1.0, 1.0), (0.02, 0.02, 0.02)])
def test_on_white_and_on_black_a_label_is_not_told_from_a_hole(ground):
    truth, label = one(radii=(0.3, 0.25)), one(radii=(0.1, 0.08))
    picture = over(plain(*SIZE, ground), truth * (1 - label), RED)
    with pytest.raises(EnclosedError, match="9% of what lies within the outline has the ground's colour"):
        find_product(picture)
    assert agreement(find_product(picture, enclosed="product").opacity, truth) > 0.97
    assert agreement(find_product(picture, enclosed="holes").opacity, truth * (1 - label)) > 0.97


PAINT = (0.5, 0.3, 0.6)


def wall_and_table(table):
    """(3, H, W): the table begins at nearly one half."""
    picture = plain(*SIZE, PAINT)
    picture[:, 70:] = torch.tensor(table).view(3, 1, 1)
    return picture


@pytest.mark.parametrize("label", [one((0.42, 0.5), (0.08, 0.1)), one((0.44, 0.5), (0.04, 0.12))])
def test_a_label_that_the_ground_beside_it_is_not_like_is_no_hole(label):
    """As white as the table, before the wall; through a hole the wall is seen."""
    ground, truth = wall_and_table((0.92, 0.92, 0.92)), one((0.6, 0.5), (0.35, 0.2))
    found = find_product(over(over(ground, truth, RED), label, plain(*SIZE)))
    assert agreement(found.opacity, truth) > 0.97
    assert (found.opacity[label > 0.9] == 1).all()
    assert found.enclosed_share == 0
    with_hole = find_product(over(ground, truth * (1 - label), RED), enclosed="holes")
    assert agreement(with_hole.opacity, truth * (1 - label)) > 0.97


def test_what_may_be_the_ground_beside_it_in_shade_stays_a_hole():
    ground = wall_and_table(tuple(0.8 * value for value in PAINT))
    truth, hole = one((0.6, 0.5), (0.35, 0.2)), one((0.42, 0.5), (0.04, 0.12))
    found = find_product(over(over(ground, truth, RED), hole, ground.flip(1)))
    assert found.opacity[hole > 0.9].mean() < 0.05


def rim(gap=0):
    """(H, W): the rim of a box, of which so many pixels on the left are missing."""
    opacity = torch.zeros(SIZE)
    opacity[30:120, 60:140] = 1
    opacity[36:114, 66:134] = 0
    opacity[70 : 70 + gap, 60:66] = 0
    return opacity


@pytest.mark.parametrize("ground", [(1.0, 1.0, 1.0), (0.92, 0.92, 0.92), (0.2, 0.3, 0.5)])
@pytest.mark.parametrize("gap", [0, 4])
def test_what_has_the_grounds_colour_within_an_outline_may_be_a_part_of_it(ground, gap):
    """A phone with a white screen on white: cut out it would be a frame through which the ad is seen."""
    phone = over(plain(*SIZE, ground), rim(gap), (0.05, 0.05, 0.05))
    with pytest.raises(
        UnsureError, match=r"69% of what lies within the outline has the ground's colour.*paint the product"
    ):
        find_product(phone)
    hidden = find_product(phone, to_hide=True).seen
    assert bool(hidden[36:114, 66:134].all())
    assert not hidden[:26].any()


@pytest.mark.parametrize("gap", [10, 20, 30])
def test_an_open_outline_lies_around_what_is_between_its_parts(gap):
    """Up and down and across: cut out, the phone would be a frame with a slit."""
    phone = over(plain(*SIZE), rim(gap), (0.05, 0.05, 0.05))
    for enclosed in (Enclosed.REFUSE, Enclosed.PRODUCT):
        with pytest.raises(EnclosedError, match=r"\d\d% of what lies within the outline has the ground's colour"):
            find_product(phone, enclosed=enclosed)
    found = find_product(phone, enclosed=Enclosed.HOLES)
    assert agreement(found.opacity, rim(gap)) > 0.97
    assert f", {found.enclosed_share:.0%} within its outline taken for holes" in found.left_out_line()
    assert found.enclosed_share > 0.5
    assert find_product(phone, to_hide=True).seen[40:66, 66:134].all()


def test_what_is_open_at_a_side_is_an_ordinary_thing():
    table = torch.zeros(SIZE)
    table[40:50, 40:160] = 1
    table[50:125, 46:54] = table[50:125, 146:154] = 1
    found = find_product(over(plain(*SIZE), table, BLUE))
    assert agreement(found.opacity, table) > 0.97
    assert found.left_out_line() == ""


def ring(inner=0.24):
    return one(radii=(0.4, 0.3)) * (1 - one(radii=(inner, 0.18)))


def test_what_an_outline_encloses_is_what_one_says_it_is():
    picture = over(plain(*SIZE), ring(), RED)
    with pytest.raises(EnclosedError, match=r"3\d% of what lies within the outline"):
        find_product(picture)
    holes, filled = (find_product(picture, enclosed=enclosed) for enclosed in ("holes", "product"))
    assert agreement(holes.opacity, ring()) > 0.97
    assert holes.left_out_line().startswith(", 33% within its outline taken for holes")
    assert agreement(filled.opacity, one(radii=(0.4, 0.3))) > 0.97
    assert (filled.opacity[45:105, 70:130] == 1).all()
    assert filled.left_out_line() == ", 33% within its outline taken for the product: it has the ground's colour"
    with pytest.raises(ValueError, match="enclosed is 'both', expected one of"):
        find_product(picture, enclosed="both")


def test_what_is_filled_is_no_speck():
    picture = over(over(plain(*SIZE), rim(), (0.05, 0.05, 0.05)), marks((70, 95), size=6), RED)
    assert find_product(picture, enclosed="holes").specks == 1
    assert find_product(picture, enclosed="product").specks == 0


def test_a_hole_is_said_and_hidden_however_small_it_is():
    letters = marks((70, 95), (70, 103), size=2)
    picture = over(plain(*SIZE), one() * (1 - letters), RED)
    found = find_product(picture)
    assert (found.opacity[letters > 0] < 0.1).all()
    assert found.left_out_line() == ", <1% within its outline taken for holes: it has the ground's colour"
    assert find_product(picture, to_hide=True).seen[letters > 0].all()


def test_a_screen_that_is_brighter_than_the_ground_is_taken():
    phone = over(plain(*SIZE), rim(), (0.05, 0.05, 0.05))
    phone[:, 36:114, 66:134] = 1
    found = find_product(phone)
    assert (found.opacity > 0.5).sum() == 90 * 80
    assert found.enclosed_share == 0


def marks(*places, size=7):
    """(H, W): squares in these places (row, column)."""
    opacity = torch.zeros(SIZE)
    for row, column in places:
        opacity[row : row + size, column : column + size] = 1
    return opacity


LETTERS = ((15, 20), (15, 32), (15, 44))


@pytest.mark.parametrize("colour", [RED, BLUE, (0.7, 0.7, 0.7)], ids=["red", "the product's", "grey"])
@pytest.mark.parametrize("size", [4, 7])
def test_small_things_beside_a_product_are_left_out_counted_and_hidden(colour, size):
    letters = marks(*LETTERS, size=size)
    found = find_product(over(over(plain(*SIZE), one(), BLUE), letters, colour))
    assert agreement(found.opacity, one()) > 0.97
    assert (found.parts, found.specks) == (1, 3)
    assert bool(found.seen[letters > 0].all())
    assert found.left_out.sum() < 4 * letters.sum() + 100
    assert found.left_out_line() == ", 3 specks left out"


def with_a_cap(grey, cap_grey=255):
    """A red box with a cap on it, on grey ground; and where the cap is."""
    box, cap = torch.zeros(SIZE), torch.zeros(SIZE)
    box[50:130, 80:120] = 1
    cap[32:50, 84:116] = 1
    return over(over(plain(*SIZE, (grey / 255,) * 3), box, RED), cap, (cap_grey / 255,) * 3), cap > 0


def test_what_touches_a_product_and_is_a_little_darker_than_the_ground_is_hidden_with_it():
    picture, cap = with_a_cap(255, 235)
    assert not find_product(picture).opacity[cap].any()  # a shadow looks the same
    assert find_product(picture, to_hide=True).seen[cap].all()


@pytest.mark.parametrize("grey", [205, 220, 225, 230, 235])
def test_what_touches_a_product_and_is_lighter_than_the_ground_is_no_shadow(grey):
    picture, cap = with_a_cap(grey)
    with pytest.raises(
        UnsureError,
        match=r"something is lighter than the ground, 1\d% as large, which may be a part of it, such as a cap",
    ):
        find_product(picture)
    assert find_product(picture, to_hide=True).seen[cap].all()


def test_a_little_that_is_lighter_is_said():
    spot = plain(*SIZE, (0.8, 0.8, 0.8))
    spot[:, 100:106, 124:131] = 1
    box = torch.zeros(SIZE)
    box[40:130, 80:120] = 1
    found = find_product(over(spot, box, RED))
    assert 0 < found.lighter < 0.02
    assert found.left_out_line().endswith("% as large left out beside it: it is lighter than the ground")


@pytest.mark.parametrize("light", ["spot", "low spot", "glow", "slope"])
def test_light_on_the_ground_is_ground(light):
    height, width = SIZE
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    lights = {
        "spot": torch.exp(-(down**2 + across**2) / 0.3),
        "low spot": torch.exp(-((down - 0.3) ** 2 + across**2) / 0.12),
        "glow": 1 - ((across.abs() - 0.3).clamp(0, 0.4) / 0.4 * 1.0).expand(height, -1),
        "slope": (1 + down.expand(-1, width)) / 2,
    }
    found = find_product(over(plain(*SIZE, (0.7, 0.7, 0.7)) + 0.2 * lights[light], one(), RED))
    assert agreement(found.opacity, one()) > 0.97
    assert found.lighter == 0


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.05])
def test_the_grounds_grain_is_no_small_thing(noise):
    grain = noise * torch.randn(3, *SIZE, generator=seeded(2))
    found = find_product((over(plain(*SIZE, (0.8, 0.8, 0.8)), one(), BLUE) + grain).clamp(0, 1))
    assert agreement(found.opacity, one()) > 0.95
    assert found.left_out.float().mean() < 0.002


def test_a_label_that_is_like_the_ground_belongs_to_the_product_that_encloses_it():
    scene = render([sample_scene(4)], 128)  # an orange vase, its label shaded round it
    image, label = scene.image[0].movedim(-1, 0), scene.label[0] == 1
    ground = image[:, label].median(1).values.view(3, 1, 1)
    alike = (image - ground).abs().amax(0) < 0.05
    assert alike[label].float().mean() > 0.4
    found = find_product(ground + (image - ground) * scene.product[0])
    assert agreement(found.opacity, scene.product[0]) > 0.98
    assert bool((found.opacity[label] == 1).all())
    assert found.parts == 1


def test_glass_of_little_contrast_is_found():
    found = find_product(over(plain(*SIZE), 0.25 * one(), (0.1, 0.5, 0.4)))
    assert agreement(found.opacity, one()) > 0.97


def test_a_large_photo_has_the_edge_of_its_own_size():
    truth = ellipse((900, 1200), (0.5, 0.5), (0.3, 0.15))
    found = find_product(over(plain(900, 1200), truth, RED))
    assert (found.opacity - truth).abs().max() < 0.05


def test_the_same_photo_has_the_same_mask():
    picture = over(plain(*SIZE), one(), RED) + 0.01 * torch.randn(3, *SIZE, generator=seeded(1))
    assert torch.equal(find_product(picture.clamp(0, 1)).opacity, find_product(picture.clamp(0, 1)).opacity)


def test_parts_are_counted():
    two = over(over(plain(*SIZE), one((0.5, 0.25)), RED), one((0.5, 0.75)), BLUE)
    found = find_product(two)
    assert found.parts == 2
    assert agreement(found.opacity, one((0.5, 0.25)) + one((0.5, 0.75))) > 0.97


@pytest.mark.parametrize(
    ("centre", "radii", "touches"),
    [
        ((0.8, 0.5), (0.3, 0.2), ("bottom",)),
        ((0.5, 0.1), (0.3, 0.2), ("left",)),
    ],
)
def test_a_product_at_the_border_is_found_and_it_is_said_where_it_touches(centre, radii, touches):
    found = find_product(over(plain(*SIZE), one(centre, radii), RED))
    assert found.touches == touches
    assert agreement(found.opacity, one(centre, radii)) > 0.95


@pytest.mark.parametrize(("centre", "radii"), [((0.5, 0.5), (0.8, 0.15)), ((0.9, 0.1), (0.5, 0.3))])
def test_a_thing_that_reaches_two_borders_is_refused(centre, radii):
    """Each of the two borders explains the other, so it might be ground."""
    with pytest.raises((UnsureError, NothingFoundError)):
        find_product(over(plain(*SIZE), one(centre, radii), RED))


def test_what_is_cut_off_is_taken_as_a_whole_though_its_upper_part_alone_stands_out():
    """The border at its foot is not taken for ground: colours that come again there would eat the product from below."""
    truth = one((0.8, 0.5), (0.5, 0.12), (300, 300))
    found = find_product(over(plain(300, 300), truth, RED))
    assert found.touches == ("bottom",)
    assert agreement(found.opacity, truth) > 0.98


@pytest.mark.parametrize("free", [0.02, 0.03, 0.05])
def test_a_product_that_nearly_fills_its_photo_is_not_taken_for_ground(free):
    """Shops ask for little room around it: what reaches into the border, here a dark foot and a pale cap, is no ground, or it
    would eat the product wherever its colours come again."""
    size, truth, end = (200, 200), torch.zeros(200, 200), round(200 * free)
    truth[end:-end, 60:140] = 1
    picture = over(plain(*size, (0.6, 0.6, 0.6)), truth, RED)
    for rows in (slice(end, end + 30), slice(90, 100)):
        picture[:, rows, 60:140] = torch.tensor((0.93, 0.9, 0.85)).view(3, 1, 1)
    picture[:, 170:-end, 60:140] = 0.2
    found = find_product(picture)
    assert agreement(found.opacity, truth) > 0.97
    assert found.touches == ()


@pytest.mark.parametrize("seed", [950_000_038, 950_000_070])
def test_an_outline_that_is_no_edge_is_refused(seed):
    """A white label, and a white cap, on white: where what was found ends within them nothing is seen."""
    shot = filled(packshot(seed, 512), 0.03)
    with pytest.raises(UnsureError, match="% of its outline no colour changes, so that a part of it"):
        find_product(shot.image, enclosed="holes")


def test_a_thing_at_the_border_that_is_not_the_products_is_left_out():
    beside = one((0.9, 0.25), (0.3, 0.08))
    found = find_product(over(over(plain(*SIZE), one(), RED), beside, BLUE))
    assert found.touches == ()
    assert agreement(found.opacity, one()) > 0.97


@pytest.mark.parametrize(
    "picture",
    [
        torch.zeros(3, 60, 80),
        plain(60, 80, RED),
        over(plain(60, 80, (1.0, 1.0, 1.0)), one(size=(60, 80)), (0.98, 0.98, 0.98)),
        over(plain(*SIZE), one(radii=(0.02, 0.02)), RED),
    ],
    ids=["black", "all product", "white on white", "a speck"],
)
def test_pictures_in_which_nothing_stands_out(picture):
    with pytest.raises(NothingFoundError, match="nothing stands out from the ground"):
        find_product(picture)


def test_noise_is_no_product():
    with pytest.raises(UnsureError, match=r"sure to 0\.\d\d, expected 0\.\d+ or more\. Paint the product"):
        find_product(torch.rand(3, 100, 100, generator=seeded(0)))
    blots = F.interpolate(torch.rand(1, 3, 10, 10, generator=seeded(0)), size=100)[0]
    with pytest.raises((UnsureError, NothingFoundError)):
        find_product(blots)


def test_a_label_on_a_product_that_is_nearly_the_grounds_colour_is_not_taken_for_it():
    pale = over(plain(*SIZE), one(radii=(0.4, 0.25)), (0.86, 0.86, 0.86))
    with pytest.raises(UnsureError, match=r"beside what stands out there are fainter things, \d+% as large"):
        find_product(over(pale, one(radii=(0.1, 0.12)), RED))


def test_a_picture_on_a_page_is_no_product():
    page = plain(*SIZE, (1.0, 1.0, 1.0))
    page[:, 15:135, 20:180] = torch.tensor((0.3, 0.5, 0.4)).view(3, 1, 1)
    with pytest.raises(UnsureError, match=r"what stands out is a rectangle over \d\d% of the picture"):
        find_product(page)


@pytest.mark.parametrize(
    ("height", "width", "said"), [(1, 1, "1x1"), (8, 5000, "5000x8"), (5000, 8, "8x5000"), (15, 40, "40x15")]
)
def test_pictures_that_are_too_small_or_too_narrow(height, width, said):
    with pytest.raises(UnsureError, match=rf"the picture is {said} pixels \(width x height\), too small or too narrow"):
        find_product(plain(height, width))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"image is \(1, 20, 20\), expected \(3, height, width\)"):
        find_product(torch.zeros(1, 20, 20))
