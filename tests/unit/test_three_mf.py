"""3MF: what the build holds and nothing else, whatever parts it is spread over; and the archive and XML of
strangers, refused before they cost anything.
"""

import warnings
import zipfile
from io import BytesIO
from random import Random

import msgspec
import numpy as np
import pytest

from pricing.errors import Refused
from pricing.mesh.analysis import analyse
from pricing.readers import zip_package as packages
from tests.support import meshes


def code(body: bytes) -> str:
    with pytest.raises(Refused) as caught:
        analyse(body)
    return caught.value.code


CUBE_3MF = meshes.three_mf_object(meshes.cube())


def archive(objects: str = CUBE_3MF, items: str = '<item objectid="1"/>', attributes: str = "") -> bytes:
    return meshes.three_mf_archive(meshes.three_mf_model(objects, items, attributes))


@pytest.mark.parametrize(
    ("name", "unit"), [("micron", "um"), ("centimeter", "cm"), ("inch", "in"), ("foot", "ft"), ("meter", "m")]
)
def test_3mf_states_its_unit(name: str, unit: str) -> None:
    model = meshes.three_mf_model(CUBE_3MF).replace("millimeter", name)
    assert analyse(meshes.three_mf_archive(model)).unit == unit
    assert analyse(archive()).unit == "mm"


def test_3mf_items_components_and_transforms_are_honoured() -> None:
    group = '<object id="2"><components>'
    group += '<component objectid="1"/><component objectid="1" transform="2 0 0 0 1 0 0 0 1 50 0 0"/>'
    group += "</components></object>"
    items = '<item objectid="2"/><item objectid="2" transform="1 0 0 0 1 0 0 0 -1 0 0 500"/>'
    facts = analyse(archive(CUBE_3MF + group, items))
    assert (facts.facets, facts.bodies) == (48, 4)
    assert facts.volume == pytest.approx(6000)


def test_3mf_objects_that_are_not_built_do_not_count() -> None:
    assert analyse(archive(CUBE_3MF + meshes.three_mf_object(meshes.torus(), 7, "support"))).facets == 12


@pytest.mark.parametrize("kind", ["support", "solidsupport"])
def test_3mf_what_holds_the_piece_while_it_is_made_does_not_count(kind: str) -> None:
    objects = CUBE_3MF + meshes.three_mf_object(meshes.torus(), 7, kind)
    assert analyse(archive(objects, '<item objectid="1"/><item objectid="7"/>')).volume == 1000
    group = (
        '<object id="9"><components><component objectid="1"/><component objectid="7"/></components></object>'
    )
    assert analyse(archive(objects + group, '<item objectid="9"/>')).facets == 12
    assert code(archive(objects, '<item objectid="7"/>')) == "no_facets"


def test_3mf_what_is_of_no_kind_that_is_cast_is_refused() -> None:
    objects = CUBE_3MF + meshes.three_mf_object(meshes.torus(), 7, "other")
    assert code(archive(objects, '<item objectid="1"/><item objectid="7"/>')) == "unsupported_feature"


def slicer_archive(name: str, settings: str, objects: str = CUBE_3MF, items: str | None = None) -> bytes:
    """With what a slicer says of its parts."""
    stream = BytesIO(archive(objects) if items is None else archive(objects, items))
    with zipfile.ZipFile(stream, "a") as packed:
        packed.writestr(f"Metadata/{name}", f"<config>{settings}</config>")
    return stream.getvalue()


PRUSA_RANGE = (
    '<object id="1"><volume firstid="0" lastid="11">{}</volume>'
    '<volume firstid="12" lastid="23">{}</volume></object>'
)
PRUSA_ROLE = '<metadata type="volume" key="volume_type" value="{}"/>'


@pytest.mark.parametrize("role", ["ParameterModifier", "SupportBlocker", "SupportEnforcer"])
def test_3mf_ranges_that_prusa_marks_as_no_metal_are_left_out(role: str) -> None:
    both = meshes.three_mf_object(np.concatenate([meshes.cube(), meshes.cube() + 30]), 1)
    settings = PRUSA_RANGE.format(PRUSA_ROLE.format("ModelPart"), PRUSA_ROLE.format(role))
    facts = analyse(slicer_archive("Slic3r_PE_model.config", settings, both))
    assert facts.volume == 1000
    assert [warning.code for warning in facts.warnings] == ["parts_left_out"]


def test_3mf_ranges_that_an_old_slic3r_marks_are_left_out() -> None:
    both = meshes.three_mf_object(np.concatenate([meshes.cube(), meshes.cube() + 30]), 1)
    settings = PRUSA_RANGE.format("", '<metadata type="volume" key="modifier" value="1"/>')
    assert analyse(slicer_archive("Slic3r_PE_model.config", settings, both)).volume == 1000


def test_3mf_components_that_bambu_marks_as_no_metal_are_left_out() -> None:
    objects = (
        CUBE_3MF
        + meshes.three_mf_object(meshes.torus(), 7)
        + '<object id="9"><components><component objectid="1"/><component objectid="7"/></components>'
        + "</object>"
    )
    settings = '<object id="9"><part id="1" subtype="normal_part"/><part id="7" subtype="{}"/></object>'
    items = '<item objectid="9"/>'
    for role in ("modifier_part", "support_blocker", "support_enforcer"):
        facts = analyse(slicer_archive("model_settings.config", settings.format(role), objects, items))
        assert (facts.volume, facts.warnings[0].code) == (1000, "parts_left_out")
    negative = slicer_archive("model_settings.config", settings.format("negative_part"), objects, items)
    assert code(negative) == "unsupported_feature"


def test_3mf_objects_that_cura_marks_as_no_metal_are_left_out() -> None:
    marked = meshes.three_mf_object(meshes.torus(), 7).replace(
        "<mesh>", '<metadatagroup><metadata name="cura:infill_mesh">True</metadata></metadatagroup><mesh>'
    )
    facts = analyse(archive(CUBE_3MF + marked, '<item objectid="1"/><item objectid="7"/>'))
    assert (facts.volume, facts.warnings[0].code) == (1000, "parts_left_out")


def test_3mf_items_that_are_not_to_be_printed_do_not_count() -> None:
    items = '<item objectid="1"/><item objectid="1" printable="0" transform="1 0 0 0 1 0 0 0 1 50 0 0"/>'
    assert analyse(archive(items=items)).facets == 12


def test_3mf_surfaces_in_the_build_are_refused() -> None:
    objects = CUBE_3MF + meshes.three_mf_object(meshes.torus(), 7, "surface")
    assert code(archive(objects, '<item objectid="1"/><item objectid="7"/>')) == "unsupported_feature"


PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
WITH_PATHS = f'xmlns:p="{PRODUCTION}" requiredextensions="p"'


def part(size: float, attributes: str = "") -> str:
    """A part with a cube whose id is that of every other cube."""
    return meshes.three_mf_model(meshes.three_mf_object(meshes.cube(size)), "", attributes)


def test_3mf_objects_of_the_same_id_in_several_parts_are_told_apart() -> None:
    group = (
        '<object id="2"><components><component objectid="1"/>'
        '<component objectid="1" p:path="/3D/small.model" transform="1 0 0 0 1 0 0 0 1 20 0 0"/>'
        '<component objectid="1" p:path="/3D/Objects/large.model" transform="2 0 0 0 1 0 0 0 1 40 0 0"/>'
        "</components></object>"
    )
    item = '<item objectid="1" p:path="/3D/Objects/LARGE.model" transform="1 0 0 0 1 0 0 0 1 0 0 90"/>'
    root = meshes.three_mf_model(CUBE_3MF + group, '<item objectid="2"/>' + item, WITH_PATHS)
    parts = {"3D/small.model": part(2), "3D/Objects/large.model": part(3)}
    facts = analyse(meshes.three_mf_archive(root, parts=parts))
    assert facts.volume == pytest.approx(1000 + 8 + 2 * 27 + 27)
    assert (facts.facets, facts.bodies) == (48, 4)
    missing = meshes.three_mf_archive(root, parts={"3D/small.model": part(2)})
    assert code(missing) == "malformed_3mf"


def test_3mf_parts_in_another_unit_or_with_a_document_type_are_refused() -> None:
    root = meshes.three_mf_model("", '<item objectid="1" p:path="/3D/a.model"/>', WITH_PATHS)
    inches = part(2).replace("millimeter", "inch")
    assert code(meshes.three_mf_archive(root, parts={"3D/a.model": inches})) == "unsupported_feature"
    entity = part(2).replace("<model ", '<!DOCTYPE model [<!ENTITY a "1">]><model ', 1)
    assert code(meshes.three_mf_archive(root, parts={"3D/a.model": entity})) == "dtd_forbidden"


def test_3mf_paths_never_leave_the_package() -> None:
    for path in ("/../../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x.model", ""):
        root = meshes.three_mf_model("", f'<item objectid="1" p:path="{path}"/>', WITH_PATHS)
        assert code(meshes.three_mf_archive(root)) == "malformed_3mf"


def test_3mf_in_utf_16_is_read() -> None:
    text = meshes.three_mf_model(CUBE_3MF).replace("UTF-8", "UTF-16")
    assert analyse(meshes.three_mf_archive(text.encode("utf-16"))).closed
    hidden = text.replace("<model ", '<!DOCTYPE model [<!ENTITY a "1">]><model ', 1)
    assert code(meshes.three_mf_archive(hidden.encode("utf-16"))) == "dtd_forbidden"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (archive(items='<item objectid="2"/>'), "malformed_3mf"),
        (archive(items=""), "no_facets"),
        (archive(items='<item objectid="1" transform="1 0 0"/>'), "malformed_3mf"),
        (archive(items='<item objectid="1" transform="1 0 0 0 1 0 0 0 nan 0 0 0"/>'), "not_finite"),
        (archive(CUBE_3MF + CUBE_3MF), "malformed_3mf"),
        (archive(CUBE_3MF.replace('v1="0"', 'v1="8"')), "malformed_3mf"),
        (archive(CUBE_3MF.replace('v1="0"', 'v1="-1"')), "malformed_3mf"),
        (archive(CUBE_3MF.replace('v1="0"', "")), "malformed_3mf"),
        (archive(CUBE_3MF.replace('x="0.0"', 'x="nan"')), "not_finite"),
        (archive(CUBE_3MF.replace('x="0.0"', 'x="0,5"')), "comma_decimal"),
        (archive(CUBE_3MF.replace("</mesh>", "<beamlattice/></mesh>")), "unsupported_feature"),
        (
            archive('<object id="1"><components><component objectid="1"/></components></object>'),
            "malformed_3mf",
        ),
        (archive(attributes='xmlns:q="urn:unknown" requiredextensions="q"'), "unsupported_feature"),
        (archive(items='<item objectid="1" transform="1 0 0 0 0 0 0 0 1 0 0 0"/>'), "malformed_3mf"),
        (archive(CUBE_3MF.replace('v1="0"', 'v1="0_1"')), "malformed_3mf"),
        (archive(CUBE_3MF.replace('v1="0"', 'v1="\u0661"')), "malformed_3mf"),
        (archive(CUBE_3MF.replace("</mesh>", "</mesh><mesh/>")), "malformed_3mf"),
        (
            meshes.three_mf_archive(meshes.three_mf_model(CUBE_3MF).replace("millimeter", "furlong")),
            "malformed_3mf",
        ),
        (meshes.three_mf_archive("<model/>"), "malformed_3mf"),
        (meshes.three_mf_archive("no xml"), "malformed_3mf"),
        (meshes.three_mf_archive(meshes.three_mf_model(CUBE_3MF), target="/3D/other.model"), "malformed_3mf"),
        (b"PK\x03\x04" + b"\0" * 200, "malformed_3mf"),
    ],
)
def test_3mf_that_is_not_understood_is_refused(body: bytes, expected: str) -> None:
    assert code(body) == expected


def test_3mf_with_a_document_type_is_refused_before_it_expands() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    prolog = f'<!DOCTYPE model [<!ENTITY e0 "10">{entities}]>'
    objects = CUBE_3MF.replace('x="10.0"', 'x="&e11;"')
    body = meshes.three_mf_archive(meshes.three_mf_model(objects, prolog=prolog))
    assert code(body) == "dtd_forbidden"
    hidden = meshes.three_mf_model(CUBE_3MF).replace("UTF-8", "UTF-7")
    assert code(meshes.three_mf_archive(hidden)) == "malformed_3mf"


def test_3mf_components_that_double_thirty_times_are_refused_without_building_them() -> None:
    doubling = "".join(
        f'<object id="{n}"><components>' + f'<component objectid="{n - 1}"/>' * 2 + "</components></object>"
        for n in range(2, 32)
    )
    assert code(archive(CUBE_3MF + doubling, '<item objectid="31"/>')) == "too_many_facets"
    assert code(archive('<object id="1"><mesh/></object>' + doubling, '<item objectid="31"/>')) == "no_facets"


def test_zip_bombs_are_refused_by_ratio_members_and_total(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = BytesIO(archive())
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("bomb", b"\0" * 30_000_000)
    assert code(stream.getvalue()) == "archive_limit"
    monkeypatch.setattr(packages, "TOTAL_BYTES_MAX", 1000)
    assert code(archive()) == "archive_limit"
    stream = BytesIO(archive())
    with zipfile.ZipFile(stream, "a") as many:
        for number in range(packages.MEMBERS_MAX):
            many.writestr(f"{number}", b"")
    assert code(stream.getvalue()) == "archive_limit"


def test_a_member_that_inflates_too_far_is_not_hidden_by_others() -> None:
    stream = BytesIO(archive())
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("noise", Random(1).randbytes(1_000_000))
        bomb.writestr("bomb", b"\0" * 30_000_000)
    assert code(stream.getvalue()) == "archive_limit"


@pytest.mark.parametrize("name", ["3D/3dmodel.model", "3d/3DMODEL.model", "_rels/.RELS"])
def test_two_members_of_one_name_are_refused(name: str) -> None:
    stream = BytesIO(archive())
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a") as twice:
        warnings.simplefilter("ignore")  # zipfile warns of the first of them
        twice.writestr(name, meshes.three_mf_model(meshes.three_mf_object(meshes.cube(20))))
    assert code(stream.getvalue()) == "malformed_3mf"


def test_members_named_to_lie_elsewhere_are_read_from_the_package_or_not_at_all() -> None:
    stream = BytesIO(archive())
    with zipfile.ZipFile(stream, "a") as nested:
        nested.writestr("../../../../outside.model", "x")
        nested.writestr("/etc/passwd", "x")
        nested.writestr("inner/ring.3mf", archive())
    assert analyse(stream.getvalue()).facets == 12


def test_zip_without_a_model_is_refused() -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as photos:
        photos.writestr("photo.jpg", b"\xff\xd8\xff")
    assert code(stream.getvalue()) == "unsupported_format"


@pytest.mark.parametrize("beside", ["__MACOSX/._ring.stl", "models/", ".DS_Store"])
def test_zip_of_one_model_is_that_model(beside: str) -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("models/ring.stl", meshes.binary_stl(meshes.torus()))
        packed.writestr(beside, b"")
    packed_facts, facts = analyse(stream.getvalue()), analyse(meshes.binary_stl(meshes.torus()))
    assert [warning.code for warning in packed_facts.warnings] == ["from_archive"]
    assert msgspec.structs.replace(packed_facts, warnings=()) == facts


def test_zip_of_several_files_or_of_another_zip_is_refused() -> None:
    several, nested = BytesIO(), BytesIO()
    with zipfile.ZipFile(several, "w") as packed:
        packed.writestr("one.stl", meshes.binary_stl(meshes.cube()))
        packed.writestr("two.stl", meshes.binary_stl(meshes.cube()))
    with zipfile.ZipFile(nested, "w") as packed:
        packed.writestr("inner.zip", several.getvalue())
    assert code(several.getvalue()) == code(nested.getvalue()) == "archive"


def test_zip_member_with_a_wrong_checksum_is_refused() -> None:
    stream = BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as stored,
        zipfile.ZipFile(BytesIO(archive())) as source,
    ):
        for name in source.namelist():
            stored.writestr(name, source.read(name))
    body = stream.getvalue()
    assert analyse(body).closed
    assert code(body.replace(b'x="10.0"', b'x="11.0"')) == "malformed_3mf"


def test_zip_with_bytes_missing_anywhere_is_refused() -> None:
    body = archive()
    for start in range(5, len(body) - 120, 23):
        assert code(body[:start] + body[start + 100 :]) in (
            "malformed_3mf",
            "archive_limit",
            "unsupported_feature",
        )


@pytest.mark.parametrize("name", ["path", "q:path"])
def test_an_object_in_another_part_by_a_name_that_is_not_known_is_refused(name: str) -> None:
    """The object of that number in this part is another one."""
    item = f'<item objectid="1" {name}="/3D/a.model"/>'
    root = meshes.three_mf_model(CUBE_3MF, item, 'xmlns:q="http://schemas.example.com/production/2031"')
    assert code(meshes.three_mf_archive(root, parts={"3D/a.model": part(2)})) == "unsupported_feature"
