"""Row x format x seed, what each job sets, and the hash by which it is known."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from PIL import Image

from headless.catalogue.job.jobs import MAX_SEED, JobMaker, RowError, parse_formats, parse_seeds
from headless.catalogue.job.pictures import PictureIndex
from headless.catalogue.sources.places import Places
from headless.catalogue.sources.source import LocalFile
from headless.catalogue.table.columns import Columns, parse_mapping
from headless.catalogue.table.rows import Row
from headless.catalogue.workflow.input_kinds import InputKinds
from headless.catalogue.workflow.named_inputs import Workflow
from headless.host.find import PACK_ROOT
from pfv_mepa.tests.catalogue.harness import KINDS, OWN, draw_product

API = PACK_ROOT / "workflows" / "api"


@pytest.fixture
def folder(tmp_path):
    draw_product(tmp_path / "cup.png", (64, 96), (200, 10, 10))
    draw_product(tmp_path / "reference.png", (50, 40), (10, 10, 200))
    Image.new("L", (64, 96)).save(tmp_path / "nothing.png")
    mask = Image.new("L", (50, 40))
    mask.paste(255, (5, 5, 20, 20))
    mask.save(tmp_path / "hidden.png")
    return tmp_path


def maker_of(shipped, folder, **options):
    own = frozenset(options.pop("own", OWN))
    return JobMaker(shipped, Columns(shipped, {}), Places(folder), PictureIndex(None), own=own, **options)


def maker(folder, workflow="minimal", **options):
    return maker_of(Workflow.read(API / f"{workflow}.json", KINDS), folder, **options)


def jobs(folder, fields, workflow="minimal", **options):
    return list(maker(folder, workflow, **options).jobs_of(Row(2, fields)))


ROW = {"name": "cup", "reference": "reference.png", "prompt": "a cup", "formats": "64x96; 128x64", "seeds": "3-5"}


def test_a_row_becomes_every_format_with_every_seed(folder):
    found = jobs(folder, ROW)
    assert [(job.size, job.seed) for job in found] == [((w, h), s) for w, h in ((64, 96), (128, 64)) for s in (3, 4, 5)]
    values = {str(named): value for named, value in found[0].values.items()}
    assert values == {"Prompt.text": "a cup", "Ad size.width": 64, "Ad size.height": 96, "Sampler.seed": 3}
    assert [str(named) for named in found[0].pictures] == ["Reference.image"]
    assert len({job.id for job in found}) == 6
    assert maker(folder).count(Row(2, ROW)) == 6


def test_the_prompt_that_is_posted(folder):
    job = jobs(folder, ROW)[0]
    shipped = Workflow.read(API / "minimal.json", KINDS)
    posted = job.prompt(shipped, dict.fromkeys(job.pictures, "pfv_catalogue/abc.png"))
    values = {node["_meta"]["title"]: node["inputs"] for node in posted.values()}
    assert values["Reference"]["image"] == "pfv_catalogue/abc.png"
    assert values["Sampler"]["seed"] == 3
    assert values["Save the ad"]["filename_prefix"] == f"pfv_catalogue/{job.id[:32]}"


def test_rows_without_formats_and_seeds_take_those_of_the_command_or_of_the_workflow(folder):
    row = {"reference": "reference.png"}
    (job,) = jobs(folder, row)
    assert (job.size, job.seed, job.name) == (None, None, "reference")
    assert [(job.size, job.seed) for job in jobs(folder, row, formats="64x64", seeds="1;2")] == [
        ((64, 64), 1),
        ((64, 64), 2),
    ]


@pytest.mark.parametrize(
    "change",
    [{"name": "mug"}, {"prompt": "a mug"}, {"seeds": "9"}, {"formats": "64x64"}, {"reference_mask": "hidden.png"}],
)
def test_the_identity_changes_with_everything_that_goes_in(folder, change):
    row = {**ROW, "formats": "64x96", "seeds": "3"}
    (one,), (other,) = jobs(folder, row), jobs(folder, row | change)
    assert one.id != other.id


def test_the_identity_is_the_content_of_a_picture_and_not_its_path(folder):
    (one, *_) = jobs(folder, ROW)
    (folder / "sub").mkdir()
    (folder / "reference.png").rename(folder / "sub" / "r.png")
    (moved, *_) = jobs(folder, ROW | {"reference": "sub/r.png"})
    assert moved.id == one.id
    draw_product(folder / "sub" / "r.png", (50, 40), (10, 10, 201))
    (changed, *_) = jobs(folder, ROW | {"reference": "sub/r.png"})
    assert changed.id != one.id


def test_the_identity_is_the_same_in_another_run(folder):
    """Written down: a change of what it means would make every finished job anew."""
    nodes = {"1": {"class_type": "K", "inputs": {"seed": 1}, "_meta": {"title": "Sampler"}}}
    (job,) = maker_of(Workflow(nodes, InputKinds()), folder).jobs_of(Row(2, {"name": "a", "seeds": "7"}))
    assert job.id == "5d5bb7fe72c0834450b970c7ac1cc5912007873c9a98b11a15e77b008f3953bb"


def test_a_job_without_a_name_is_called_as_its_photo_without_what_may_be_a_secret():
    """A file may be called with a number sign; behind that of an address stands what nobody asked for."""
    names = {
        "https://shop.example/cup.png?token=SECRET": "cup",
        "https://shop.example/cup.png#token=SECRET": "cup",
        "red #1.png": "red #1",
    }
    maker = object.__new__(JobMaker)
    assert {path: maker._name(Row(2, {"product": path}), {}) for path in names} == names


def test_full_takes_one_reference_for_both_and_a_named_column_outranks_it(folder):
    row = {"product": "cup.png", "reference": "reference.png", "Table reference.image": "cup.png"}
    (job,) = jobs(folder, row, "full")
    shown = {str(named): picture.name for named, picture in job.pictures.items()}
    assert shown == {
        "Product photo.image": "cup.png",
        "Background reference.image": "reference.png",
        "Table reference.image": "cup.png",
    }


def test_paths_with_the_format_in_them(folder):
    draw_product(folder / "cup_128x64.png", (128, 64), (1, 2, 3))
    (job,) = jobs(folder, {"product": "cup_{width}x{height}.png", "formats": "128x64"}, "full")
    assert next(iter(job.pictures.values())).name == "cup_128x64.png"
    (job,) = jobs(folder, {"product": "cup_{format}.png", "formats": "128x64"}, "full")
    assert job.name == "cup_{format}"
    assert job.stem((128, 64)).startswith("cup_-format_128x64_")


def test_where_the_photo_gives_the_size_another_format_is_refused(folder):
    with pytest.raises(RowError, match=r"the ad has the product photo's size: 'cup\.png' is 64x96, the format 64x64"):
        jobs(folder, {"product": "cup.png", "formats": "64x64"}, "full")
    assert jobs(folder, {"product": "cup.png", "formats": "64x96"}, "full")[0].size == (64, 96)


def test_masks_go_into_the_alpha_channel_by_what_they_mark(folder):
    draw_product(folder / "p.png", (64, 96), (9, 9, 9))
    mask = Image.new("L", (64, 96))
    mask.paste(255, (5, 5, 20, 20))
    mask.save(folder / "product_mask.png")
    row = {
        "product": "p.png",
        "product_mask": "product_mask.png",
        "reference": "reference.png",
        "reference_mask": "hidden.png",
    }
    (job,) = jobs(folder, row, "full")
    alphas = {str(named): picture.pixels()[1] for named, picture in job.pictures.items()}
    assert (alphas["Product photo.image"][10, 10], alphas["Product photo.image"][30, 40]) == (255, 0)
    assert (alphas["Table reference.image"][10, 10], alphas["Table reference.image"][30, 40]) == (0, 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": "64"}, "'64' is no format: expected WIDTHxHEIGHT in pixels"),
        ({"formats": "64x0"}, "'64x0' is no format"),
        ({"formats": "60x64"}, "format 60x64: this workflow makes sides that are multiples of 8"),
        ({"formats": "64x64;64x64"}, "a format stands twice"),
        ({"formats": "-64x64"}, "is no format"),
        ({"seeds": "-1"}, "'-1' is no seed: expected whole numbers from 0"),
        ({"seeds": "1.5"}, "is no seed"),
        ({"seeds": "5-3"}, "is no seed"),
        ({"seeds": str(MAX_SEED + 1)}, "is no seed"),
        ({"seeds": "1 1"}, "a seed stands twice"),
        ({"seeds": "1-999999"}, "are more than 10000 seeds"),
        ({"seeds": "1-9999", "formats": "64x64 64x72"}, "are more than 10000 jobs of one row"),
        ({"reference": "nowhere.png"}, "there is no file 'nowhere.png'"),
        ({"reference": 5}, "column 'reference' takes the path of a picture, got 5"),
        ({"product": "cup.png"}, "the workflow has no place for 'product'"),
        ({"product_mask": "hidden.png"}, "product_mask marks a part of product, which the row has not"),
        ({"reference_mask": "nothing.png"}, "the mask 'nothing.png' is 64x96, its picture 'reference.png' 50x40"),
        ({"Save the ad.filename_prefix": "x"}, "files are named by this command"),
        ({"Sampler.steps": "many"}, "Sampler.steps takes a whole number, got 'many'"),
    ],
)
def test_a_row_that_makes_no_job(folder, change, message):
    with pytest.raises(RowError, match=message):
        jobs(folder, ROW | change)


def test_lists_and_numbers_of_jsonl():
    assert parse_formats([[64, 96], "128x64"]) == [(64, 96), (128, 64)]
    assert parse_seeds([1, "4-6", MAX_SEED]) == [1, 4, 5, 6, MAX_SEED]
    assert parse_seeds(7) == [7]
    assert parse_seeds("1 - 3, 8") == [1, 2, 3, 8]
    for wrong in ([True], [1.0], [None], [[1]]):
        with pytest.raises(RowError, match="is no seed"):
            parse_seeds(wrong)


def test_workflows_that_take_the_product_as_what_is_painted(folder):
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Product photo"}},
        "2": {
            "class_type": "StrictIDComposite",
            "inputs": {"product_mask": ["1", 1], "product_mask_selects": "product"},
        },
    }
    mask = Image.new("L", (64, 96))
    mask.paste(255, (0, 0, 20, 20))
    mask.save(folder / "cup_mask.png")
    row = Row(2, {"product": "cup.png", "product_mask": "cup_mask.png"})
    (job,) = maker_of(Workflow(nodes, InputKinds()), folder).jobs_of(row)
    _, alpha = next(iter(job.pictures.values())).pixels()
    assert (alpha[5, 5], alpha[50, 50]) == (0, 255)


# --- identity is what is posted -------------------------------------------------------------------------------------


def job_of(nodes, folder, fields, kinds=KINDS):
    (job,) = maker_of(Workflow(nodes, kinds), folder).jobs_of(Row(2, fields))
    return job


def test_what_a_page_writes_anew_changes_no_identity(folder):
    """It exports 1.0 as 1, gives nodes other titles, and files are saved under another name."""
    nodes = json.loads((API / "minimal.json").read_text(encoding="utf-8"))
    one = job_of(nodes, folder, {"reference": "reference.png"})
    saved = json.loads(json.dumps(nodes))
    sampler = next(node for node in saved.values() if node["class_type"] == "KSampler")
    assert sampler["inputs"]["denoise"] == 1.0
    sampler["inputs"]["denoise"] = 1
    for node in saved.values():
        node["inputs"].update({"filename_prefix": "x"} if "filename_prefix" in node["inputs"] else {})
        node["_meta"]["title"] += "" if node["class_type"] == "LoadImage" else " (copy)"
    assert job_of(saved, folder, {"reference": "reference.png"}).id == one.id
    sampler["inputs"]["denoise"] = 0.9
    assert job_of(saved, folder, {"reference": "reference.png"}).id != one.id


def test_a_default_that_a_column_overrides_changes_no_identity(folder):
    nodes = json.loads((API / "minimal.json").read_text(encoding="utf-8"))
    fields = {"reference": "reference.png", "Sampler.steps": 7, "prompt": "a cup", "seeds": 3}
    one = job_of(nodes, folder, fields)
    other = json.loads(json.dumps(nodes))
    for node in other.values():
        node["inputs"] |= {key: 99 for key in ("steps", "seed") if key in node["inputs"]}
        node["inputs"] |= {"image": "other.png"} if node["class_type"] == "LoadImage" else {}
    assert job_of(other, folder, fields).id == one.id
    assert job_of(other, folder, {key: value for key, value in fields.items() if key != "Sampler.steps"}).id != one.id


def test_a_picture_saved_in_another_way_is_the_same_picture(folder):
    one = jobs(folder, {"reference": "reference.png"})[0]
    with Image.open(folder / "reference.png") as image:
        image.save(folder / "reference.webp", lossless=True, exact=True)
    (other,) = jobs(folder, {"reference": "reference.webp", "name": "reference"})
    assert other.id == one.id


def test_kinds_come_from_the_server_and_not_from_the_files_numbers(folder):
    nodes = json.loads((API / "minimal.json").read_text(encoding="utf-8"))
    next(node for node in nodes.values() if node["class_type"] == "KSampler")["inputs"]["denoise"] = 1
    row = {"reference": "reference.png", "Sampler.denoise": "0.75"}
    job = job_of(nodes, folder, row)
    assert {str(named): value for named, value in job.values.items()} == {"Sampler.denoise": 0.75}
    with pytest.raises(RowError, match=r"Sampler\.steps takes a whole number, got '7\.5'"):
        job_of(nodes, folder, row | {"Sampler.steps": "7.5"})


def test_the_seeds_that_are_posted_are_all_named(folder):
    shipped = Workflow.read(API / "demo_formats.json", KINDS)
    draw_product(folder / "p.png", (64, 64), (1, 2, 3))
    (job,) = maker_of(shipped, folder, seeds="5").jobs_of(Row(2, {"product": "p.png", "Sampler 1:1.seed": 9}))
    assert job.seeds(shipped) == {"Sampler 1:1.seed": 5, "Sampler 4:5.seed": 5, "Sampler 1.91:1.seed": 5}
    (job,) = maker_of(shipped, folder).jobs_of(Row(2, {"product": "p.png"}))
    assert set(job.seeds(shipped).values()) == {1}
    assert job.seed is None


@pytest.mark.parametrize("name", ["formats", "demo_formats"])
def test_a_workflow_with_formats_of_its_own_takes_no_others_and_says_which_it_has(folder, name):
    row = {"product": "cup.png"}
    (job,) = jobs(folder, row, name)
    assert job.size is None
    with pytest.raises(
        RowError, match=r"saves several ads, each in a format of its own \(Save the ad 1:1, .*\): leave the formats out"
    ):
        jobs(folder, row | {"formats": "64x96"}, name)


def test_a_product_without_transparency_is_refused_before_anything_runs(folder):
    Image.new("RGB", (64, 96), (1, 2, 3)).save(folder / "photo.jpg")
    with pytest.raises(RowError, match=r"'photo\.jpg' has no transparency: name its mask in product_mask"):
        jobs(folder, {"product": "photo.jpg"}, "full")


# --- nothing of the workflow's own under a row's name ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "x"}, "product"),
        ({"name": "Summe: 3 Artikel"}, "product"),
        ({"product": "cup.png"}, "product_depth"),
        ({"product": "cup.png", "product_depth": "reference.png", "reference": "reference.png"}, "reference_depth"),
    ],
)
def test_a_row_without_what_belongs_to_it_is_refused_unless_somebody_says_so(folder, row, column):
    with pytest.raises(
        RowError, match=rf"gives no {column}, and the workflow's own \(.*\) does not belong to it: fill the"
    ):
        jobs(folder, row, "full", own=())
    assert jobs(folder, row, "full", own=("product", "product_depth", "reference_depth"))
    assert jobs(folder, {"reference": "reference.png"}, "minimal", own=())


def test_an_empty_cell_of_a_column_that_the_table_has_is_no_other_rows_text(folder):
    shipped = Workflow.read(API / "minimal.json", KINDS)
    columns = Columns(shipped, {})
    columns.check_header(["name", "reference", "prompt"])
    for own, refused in ((frozenset(), True), (frozenset({"prompt"}), False)):
        maker = JobMaker(shipped, columns, Places(folder), PictureIndex(None), own=own)
        row = Row(2, {"reference": "reference.png"})
        if refused:
            with pytest.raises(RowError, match="gives no prompt, and the workflow's own"):
                list(maker.jobs_of(row))
        else:
            assert len(list(maker.jobs_of(row))) == 1


def test_a_cut_out_is_no_painted_product(folder):
    """Where the nodes take what is transparent for the product, a cut-out's background would be pasted."""
    nodes = json.loads((API / "full.json").read_text(encoding="utf-8"))
    for node in nodes.values():
        node["inputs"] |= {"product_mask_selects": "product"} if "product_mask_selects" in node["inputs"] else {}
    with pytest.raises(
        RowError, match=r"'cup\.png' has transparency of its own, and this workflow takes what is transparent"
    ):
        job_of(nodes, folder, {"product": "cup.png"})
    mask = Image.new("L", (64, 96))
    mask.paste(255, (5, 5, 20, 20))
    mask.save(folder / "m.png")
    assert job_of(nodes, folder, {"product": "cup.png", "product_mask": "m.png"})


# --- a product that PFV Cut Out takes ---------------------------------------------------------------------------------


def cut_out_of(folder, **inputs):
    """The workflow `ad` with other values in the node that cuts out."""
    nodes = json.loads((API / "ad.json").read_text(encoding="utf-8"))
    next(node for node in nodes.values() if node["class_type"] == "PFVCutOut")["inputs"] |= inputs
    mask = Image.new("L", (64, 96))
    mask.paste(255, (5, 5, 20, 20))
    mask.save(folder / "m.png")
    Image.new("RGB", (64, 96), (1, 2, 3)).save(folder / "photo.jpg")
    return nodes


MASKED = {"product": "photo.jpg", "product_mask": "m.png"}


@pytest.mark.parametrize(
    ("shipped", "column"),
    [("background", {}), ("product", {}), ("background", {"Product.mask_selects": "product"})],
)
def test_a_products_mask_is_sent_as_the_node_that_cuts_out_reads_it(folder, shipped, column):
    job = job_of(cut_out_of(folder, mask_selects=shipped), folder, MASKED | column)
    selects = column.get("Product.mask_selects", shipped)
    (picture,) = job.pictures.values()
    mask = 255 - picture.pixels()[1]  # as Load Image gives it
    taken = mask if selects == "product" else 255 - mask
    assert (taken[10, 10], taken[50, 50]) == (255, 0)
    assert picture.white == ("transparent" if selects == "product" else "opaque")


def test_a_node_that_cuts_out_takes_no_cut_out_for_what_is_painted(folder):
    nodes = cut_out_of(folder, mask_selects="product")
    with pytest.raises(
        RowError, match=r"'cup\.png' has transparency of its own, .* \(Product\.mask_selects: product\)"
    ):
        job_of(nodes, folder, {"product": "cup.png"})
    assert job_of(nodes, folder, {"product": "photo.jpg"}), "what marks nothing is looked for"
    assert job_of(cut_out_of(folder), folder, {"product": "cup.png"})


def test_a_product_of_haze_is_no_cut_out(folder):
    image = Image.new("RGBA", (64, 96), (9, 9, 9, 100))
    image.save(folder / "haze.png")
    with pytest.raises(RowError, match=r"no pixel of 'haze\.png' is opaque"):
        job_of(cut_out_of(folder), folder, {"product": "haze.png"})


def test_nodes_that_disagree_in_what_a_mask_selects_are_refused(folder):
    nodes = cut_out_of(folder, mask_selects="product")
    photo = next(node_id for node_id, node in nodes.items() if node["_meta"]["title"] == "Product photo")
    inputs = {"product_mask": [photo, 1], "product_mask_selects": "background"}
    nodes["900"] = {"class_type": "PFVProductDepth", "inputs": inputs}
    with pytest.raises(
        RowError, match=r"disagree in what a mask of Product photo\.image selects: Product\.mask_selects is"
    ):
        job_of(nodes, folder, MASKED)


def test_what_another_node_says_of_a_mask_is_not_guessed(folder):
    with pytest.raises(RowError, match=r"cannot be told: another node sets Product\.mask_selects; give it a value"):
        job_of(cut_out_of(folder, mask_selects=["900", 0]), folder, MASKED)


def test_a_mask_that_no_node_reads_is_refused(folder):
    nodes = json.loads((API / "full.json").read_text(encoding="utf-8"))
    photo = next(node_id for node_id, node in nodes.items() if node["_meta"]["title"] == "Product photo")
    for node in nodes.values():
        node["inputs"] = {name: value for name, value in node["inputs"].items() if value != [photo, 1]}
    mask = Image.new("L", (64, 96))
    mask.paste(255, (5, 5, 20, 20))
    mask.save(folder / "m.png")
    with pytest.raises(
        RowError, match=r"product_mask would not be used: no node takes the mask of Product photo\.image"
    ):
        job_of(nodes, folder, {"product": "cup.png", "product_mask": "m.png"})


def test_a_reference_that_marks_nothing_is_refused_where_a_node_wants_a_mark(folder):
    Image.new("RGB", (50, 40), (1, 2, 3)).save(folder / "plain.jpg")
    with pytest.raises(
        RowError, match=r"'plain\.jpg' marks nothing to be hidden, and '.*' wants it marked: name reference_mask"
    ):
        jobs(folder, {"reference": "plain.jpg"}, "minimal")
    assert jobs(folder, {"reference": "plain.jpg", "reference_mask": "hidden.png"}, "minimal")


@pytest.mark.parametrize(
    ("size", "alpha", "message"),
    [
        ((61, 96), 255, r"is 61x96, and the ad has the photo's size: give it sides that are multiples of 8"),
        ((64, 96), 100, r"no pixel of 'p\.png' is opaque"),
    ],
)
def test_a_product_that_is_bound_to_fail_is_refused_at_the_dry_run(folder, size, alpha, message):
    image = Image.new("RGBA", size, (9, 9, 9, alpha))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.save(folder / "p.png")
    with pytest.raises(RowError, match=message):
        jobs(folder, {"product": "p.png"}, "full")


@pytest.mark.parametrize("text", ["64x96", "64 x 96", "64X96", "64\u00d796", "64 \u00d7 96"])
def test_formats_as_people_write_them(text):
    assert parse_formats(f"{text}; 128x64") == [(64, 96), (128, 64)]


def test_a_composite_reports_for_every_job_also_where_the_host_has_its_picture(folder):
    shipped = Workflow.read(API / "demo_formats.json", KINDS)
    one, other = (job_of(shipped.nodes, folder, {"product": "cup.png", "name": name}) for name in ("a", "b"))
    marks = {
        node["inputs"]["pfv_catalogue_job"]
        for job in (one, other)
        for node in job.prompt(shipped, {}).values()
        if node["class_type"] == "StrictIDComposite"
    }
    assert marks == {one.id[:32], other.id[:32]}


# --- sizes that a canvas takes ------------------------------------------------------------------------------------------


def on_canvas(folder, fields, **inputs):
    """Jobs of the workflow `ad` whose canvas gets the size, with other values in it."""
    nodes = json.loads((API / "ad.json").read_text(encoding="utf-8"))
    next(node for node in nodes.values() if node["class_type"] == "PFVAdCanvas")["inputs"] |= inputs
    shipped = Workflow(nodes, KINDS)
    mapping = parse_mapping([f"{side}=Format and place.custom_{side}" for side in ("width", "height")])
    maker = JobMaker(shipped, Columns(shipped, mapping), Places(folder), PictureIndex(None), own=frozenset(OWN))
    return list(maker.jobs_of(Row(2, {"product": "cup.png", **fields})))


def test_a_canvas_with_a_format_of_its_own_takes_no_size(folder):
    sizes = {"formats": "1024x1024; 832x1216"}
    message = r"Format and place\.custom_width would not be used: Format and place\.format is '1:1'; make it 'custom'"
    with pytest.raises(RowError, match=message):
        on_canvas(folder, sizes)
    with pytest.raises(RowError, match=r"Format and place\.custom_height would not be used"):
        on_canvas(folder, {"Format and place.custom_height": 832})
    with pytest.raises(RowError, match="would not be used"):
        on_canvas(folder, sizes | {"Format and place.format": "9:16"}, format="custom")
    for found in (
        on_canvas(folder, sizes, format="custom"),
        on_canvas(folder, sizes | {"Format and place.format": "custom"}),
    ):
        posted = [{named.name: value for named, value in job.values.items()} for job in found]
        assert [(values["custom_width"], values["custom_height"]) for values in posted] == [(1024, 1024), (832, 1216)]
    assert on_canvas(folder, {"Format and place.format": "9:16"})


# --- what a row costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", ""])
def test_a_picture_is_asked_for_once_in_a_row(folder, version):
    asked = Counter()

    class Counted(LocalFile):
        def version(self):
            asked[self.name, "version"] += 1
            return version

        def read(self):
            asked[self.name, "read"] += 1
            return super().read()

    class Web:
        def source(self, path):
            return Counted(folder / path, path)

    for size in ("64x96", "128x64"):
        draw_product(folder / f"cup_{size}.png", tuple(map(int, size.split("x"))), (1, 2, 3))
    shipped = Workflow.read(API / "full.json", KINDS)
    maker = JobMaker(shipped, Columns(shipped, {}), Web(), PictureIndex(None), own=frozenset(OWN))
    row = {"product": "cup_{format}.png", "reference": "reference.png", "reference_mask": "hidden.png"}
    found = list(maker.jobs_of(Row(2, row | {"formats": "64x96; 128x64", "seeds": "1-50"})))
    assert len({job.id for job in found}) == 100
    names = {"cup_64x96.png", "cup_128x64.png", "reference.png", "hidden.png"}
    assert asked == dict.fromkeys([(name, what) for name in names for what in ("version", "read")], 1)
