"""Label sets and their rows, splits, and the numbers of classes."""

from __future__ import annotations

import datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.pipeline.labels.masks import LabelMask
from masklake.pipeline.labels.sets import (
    Instance,
    Keypoint,
    LabelSet,
    digest,
    from_table,
    number_classes,
    split_of,
    to_table,
)

from tests.helpers.label_sets import an_instance, label_set, label_sets, texts

NOW = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC)


@settings(max_examples=100, deadline=None)
@given(label_sets())
def test_label_sets_are_their_rows(sets: list[LabelSet]) -> None:
    table = to_table(sets, NOW)
    assert from_table(table) == sets
    assert len(table) == sum(max(1, len(labels.instances)) for labels in sets)


def test_an_image_without_instances_is_a_row() -> None:
    [row] = to_table([label_set("s3://p/a")], NOW).to_pylist()
    assert {name: value for name, value in row.items() if value is not None} == {
        "uri": "s3://p/a", "width": 64, "height": 48, "instance": -1, "source": "import", "split": "train", "labelled_at": NOW,
    }  # fmt: skip


def test_values_have_the_precision_of_the_lake() -> None:
    instance = Instance(
        label="a",
        label_id=1,
        box=(0.1, 1, 2, 3),
        keypoints=(Keypoint("n", 0.1, 5, 2), Keypoint("m", 3, 3, 0)),
    )
    assert instance.box[0] == 0.10000000149011612
    assert instance.keypoints == (Keypoint("n", 0.10000000149011612, 5, 2), Keypoint("m", 0, 0, 0))
    assert (
        Instance(label="a", label_id=1, box=(0, 0, 1, 1), keypoints=(Keypoint("m", 3, 3, 0),)).keypoints == ()
    )


def test_the_split_of_an_image_is_stable() -> None:
    """Written out: labels that lie in lakes rely on it."""
    uris = [f"s3://photos/{i}.jpg" for i in range(1000)]
    assert [i for i, uri in enumerate(uris[:30]) if split_of(uri) == "val"] == [7, 20, 25]
    assert 70 < sum(split_of(uri) == "val" for uri in uris) < 130
    assert split_of("ü\n'") in ("train", "val")


@given(st.dictionaries(texts, st.none() | st.integers(0, 5)), st.dictionaries(texts, st.integers(1, 5)))
def test_one_name_has_one_number(wanted: dict[str, int | None], known: dict[str, int]) -> None:
    known = {name: id_ for id_, name in {id_: name for name, id_ in known.items()}.items()}
    numbers = number_classes(wanted, known)
    assert numbers.keys() == wanted.keys()
    assert all(numbers[name] == known[name] for name in wanted if name in known)
    both = known | numbers
    assert len(set(both.values())) == len(both)
    assert min(both.values(), default=1) >= 1


def test_wanted_numbers_are_given_where_they_are_free() -> None:
    assert number_classes({"a": 3, "b": None, "c": 0}, {}) == {"a": 3, "b": 5, "c": 4}
    assert number_classes({"a": 3, "b": 7, "c": 9}, {"x": 3, "c": 1}) == {"a": 10, "b": 7, "c": 1}


def test_the_digest_tells_changes() -> None:
    labels = an_instance("person", keypoints=True)
    other = an_instance("person")
    assert digest([labels]) == digest([an_instance("person", keypoints=True, label_id=99)])
    assert (
        len(
            {
                digest([labels]),
                digest([other]),
                digest([]),
                digest([labels, labels]),
                digest([an_instance("cat")]),
            }
        )
        == 5
    )


def test_the_digest_is_the_one_that_older_exports_carry() -> None:
    """Files of every version so far: the digest must not follow when a class is renamed."""
    keypoints = (Keypoint("nose", 5, 6, 2), Keypoint("eye", 0, 0, 0))
    person = Instance(label="person", label_id=1, box=(1, 2, 3, 4), keypoints=keypoints)
    dog = Instance(label="dog", label_id=2, box=(0, 0, 2, 2), mask=LabelMask(2, 2, "04"))
    assert (digest([person]), digest([dog])) == ("5ff481ec78844a35", "4f8a8aa95a051206")
