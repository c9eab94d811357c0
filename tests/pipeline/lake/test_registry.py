"""Models in a lake: versions that never change, aliases that one of two moves."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.alias_owner import AliasOwner
from masklake.pipeline.lake.registry import Aliases, Registry
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket

V1, V2, V3 = "0123456789ab", "ba9876543210", "aaaaaaaaaaaa"
FILES = {"model.json": b'{"name": "m"}', "model.safetensors": b"weights"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    models = Registry(str(tmp_path / "lake"), Storage())
    for version in (V1, V2, V3):
        models.add("photos", version, FILES)
    return models


def names(registry: Registry) -> set[str]:
    return {str(version) for version in registry.versions()}


def test_versions_are_added_once(registry: Registry, tmp_path: Path) -> None:
    assert names(registry) == {f"photos@{v}" for v in (V1, V2, V3)}
    assert not registry.add("photos", V1, FILES | {"model.json": b"other metrics"})
    folder = tmp_path / "lake" / "models" / "photos" / V1
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    with pytest.raises(UserError, match=r"model\.safetensors: is there with another content"):
        registry.add("photos", V1, FILES | {"model.safetensors": b"else"})


def test_a_version_without_its_spec_is_none_and_can_be_completed(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "lake" / "models" / "photos" / V1 / "model.json").unlink()
    assert f"photos@{V1}" not in names(registry)
    assert registry.add("photos", V1, FILES)
    assert f"photos@{V1}" in names(registry)


def test_aliases_go_forth_and_back(registry: Registry) -> None:
    for version in (V1, V2, V3):
        target = registry.find(f"photos@{version}")
        assert target is not None
        registry.promote(target, "production", registry.aliases("photos"))
        assert registry.find("photos:production") == registry.find("production") == target
    assert registry.rollback("photos", "production", registry.aliases("photos")) == V2
    assert registry.rollback("photos", "production", registry.aliases("photos")) == V1
    with pytest.raises(UserError, match="photos:production has no version before"):
        registry.rollback("photos", "production", registry.aliases("photos"))
    aliases = registry.aliases("photos")
    assert aliases.version("production") == V1
    assert [(move["from"], move["to"]) for move in aliases.log] == [
        (None, V1),
        (V1, V2),
        (V2, V3),
        (V3, V2),
        (V2, V1),
    ]
    assert aliases.version("staging") is None


def test_what_is_not_there_is_told(registry: Registry) -> None:
    for text in ("production", "x/y", "s3://b/m", "", "../photos", "other@0123456789ab", "photos"):
        assert registry.find(text) is None
    with pytest.raises(
        UserError, match=r"model 'photos' has no version 'cccccccccccc'; `masklake models list"
    ):
        registry.find("photos@cccccccccccc")
    with pytest.raises(UserError, match="model 'photos' has no alias 'staging'"):
        registry.find("photos:staging")
    with pytest.raises(UserError, match="has no version before"):
        registry.rollback("none", "production", registry.aliases("none"))


def promoted(registry: Registry, text: str, alias: str = "production") -> None:
    version = registry.find(text)
    assert version is not None
    registry.promote(version, alias, registry.aliases(version.name))


def test_an_alias_is_one_models_at_a_time(registry: Registry) -> None:
    registry.add("scans", V1, FILES)
    promoted(registry, f"photos@{V1}")
    with pytest.raises(
        UserError, match=r"production is the alias of the model 'photos', .* by --alias, or"
    ) as refused:
        promoted(registry, f"scans@{V1}")
    assert f"masklake models unalias {registry.lake} photos production" in str(refused.value)
    assert str(registry.find("production")) == f"photos@{V1}"
    promoted(registry, f"scans@{V1}", "staging")
    promoted(registry, f"photos@{V2}")
    assert registry.unalias("photos", "production", registry.aliases("photos")) == V2
    assert registry.find("production") is None
    promoted(registry, f"scans@{V1}")
    assert str(registry.find("production")) == f"scans@{V1}"


def test_an_alias_is_taken_away_once(registry: Registry, tmp_path: Path) -> None:
    promoted(registry, f"photos@{V1}")
    promoted(registry, f"photos@{V2}", "staging")
    before = registry.aliases("photos")
    registry.unalias("photos", "production", before)
    after = registry.aliases("photos")
    assert (after.versions, len(after.log)) == ({"staging": [V2]}, 3)
    assert (after.log[-1]["from"], after.log[-1]["to"]) == (V1, None)
    for _ in range(2):
        with pytest.raises(UserError, match=r"'photos' has no alias 'production' \(its aliases: staging\)"):
            registry.unalias("photos", "production", registry.aliases("photos"))
    with pytest.raises(UserError, match=r"moved by someone else just now \(production is None\)"):
        registry.unalias("photos", "production", before)
    with pytest.raises(UserError, match=r"model name '\.\./photos'"):
        registry.unalias("../photos", "production", before)
    promoted(registry, f"photos@{V3}")
    with pytest.raises(UserError, match="no version before"):  # its past went with it
        registry.rollback("photos", "production", registry.aliases("photos"))


def test_a_lake_of_before_where_two_models_have_an_alias_can_be_read_and_mended(
    registry: Registry, tmp_path: Path
) -> None:
    registry.add("scans", V1, FILES)
    promoted(registry, f"photos@{V1}")
    kept = (tmp_path / "lake" / "models" / "photos" / "aliases.json").read_bytes()
    (tmp_path / "lake" / "models" / "scans" / "aliases.json").write_bytes(kept)
    with pytest.raises(
        UserError, match=r"2 models have an alias 'production'; write photos:production, or take"
    ):
        registry.find("production")
    assert str(registry.find("scans:production")) == f"scans@{V1}"
    promoted(registry, f"photos@{V2}")  # which has it already
    registry.unalias("scans", "production", registry.aliases("scans"))
    assert str(registry.find("production")) == f"photos@{V2}"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "ü", "a\n", "x" * 101])
def test_names_that_could_be_no_folder_are_refused(registry: Registry, name: str) -> None:
    with pytest.raises(UserError, match="use letters, digits, dots"):
        registry.add(name, V1, FILES)
    target = registry.find(f"photos@{V1}")
    assert target is not None
    with pytest.raises(UserError, match="use letters, digits, dots"):
        registry.promote(target, name, registry.aliases("photos"))


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"schema_version": 1, "aliases": [], "log": []}', b'{"schema_version": "1"}'],
)
def test_broken_aliases_are_told(registry: Registry, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lake" / "models" / "photos" / "aliases.json").write_bytes(content)
    with pytest.raises(UserError, match=r"aliases\.json: is not a file of aliases"):
        registry.aliases("photos")


def test_newer_aliases_are_left_alone(registry: Registry, tmp_path: Path) -> None:
    newer = {"schema_version": 2, "aliases": {}, "log": []}
    (tmp_path / "lake" / "models" / "photos" / "aliases.json").write_text(json.dumps(newer))
    with pytest.raises(UserError, match="upgrade this one"):
        registry.aliases("photos")


def test_of_two_promoters_one_wins(registry: Registry) -> None:
    _race(registry)


def test_of_two_promoters_one_wins_in_s3(s3_bucket: Bucket) -> None:
    models = Registry(f"{s3_bucket.uri}/lake", Storage())
    for version in (V1, V2, V3):
        models.add("photos", version, FILES)
    _race(models)


def _race(registry: Registry) -> None:
    """The first promotion (there is no file yet), and then one over another: each time one of four wins."""
    for round_ in (1, 2):
        seen = registry.aliases("photos")
        start, outcomes = threading.Barrier(4), []

        def promote(
            version: str,
            seen: object = seen,
            start: threading.Barrier = start,
            outcomes: list[str] = outcomes,
        ) -> None:
            target = registry.find(f"photos@{version}")
            start.wait()
            try:
                registry.promote(target, "production", seen)  # type: ignore[arg-type]
                outcomes.append(f"won {version}")
            except UserError as error:
                outcomes.append(str(error))

        threads = [threading.Thread(target=promote, args=(version,)) for version in (V1, V2, V3, V1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = [text.removeprefix("won ") for text in outcomes if text.startswith("won ")]
        lost = ("were moved by someone else just now (production is", "was claimed by someone else just now")
        assert sum(any(words in text for words in lost) for text in outcomes) == 3
        after = registry.aliases("photos")
        assert (after.version("production"), len(after.log)) == (winner, round_)


def test_of_two_models_one_gets_an_alias_that_neither_has(tmp_path: Path, s3_bucket: Bucket) -> None:
    for round_, lake in enumerate(
        [*(str(tmp_path / f"lake-{n}") for n in range(8)), f"{s3_bucket.uri}/lake"]
    ):
        registry = Registry(lake, Storage())
        for name in ("photos", "scans", "drawings"):
            registry.add(name, V1, FILES)
        start, outcomes = threading.Barrier(3), dict[str, str]()

        def promote(
            name: str,
            registry: Registry = registry,
            start: threading.Barrier = start,
            outcomes: dict[str, str] = outcomes,
        ) -> None:
            seen, version = registry.aliases(name), registry.find(f"{name}@{V1}")
            assert version is not None
            start.wait()
            try:
                registry.promote(version, "production", seen)
                outcomes[name] = "won"
            except UserError as error:
                outcomes[name] = str(error)

        threads = [threading.Thread(target=promote, args=(name,)) for name in ("photos", "scans", "drawings")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        having = [name for name in outcomes if registry.aliases(name).version("production")]
        assert having == [name for name, text in outcomes.items() if text == "won"], (round_, outcomes)
        assert len(having) == 1, (round_, outcomes)
        assert str(registry.find("production")) == f"{having[0]}@{V1}"


def test_a_promoter_that_died_holds_up_nobody_and_one_that_is_late_takes_its_move_back(
    registry: Registry,
) -> None:
    registry.add("scans", V1, FILES)
    owner = AliasOwner(lake=registry.lake, alias="production", storage=Storage())
    dead = owner.claim("scans", owner.read())  # and nothing more
    assert dead is not None
    promoted(registry, f"photos@{V1}")
    assert not owner.settle("scans", dead)
    registry.unalias("photos", "production", registry.aliases("photos"))

    class Overtaken(Registry):
        """Between its move and its settling someone else claims the alias."""

        def _move(self, name: str, alias: str, versions: list[str], seen: Aliases) -> None:
            super()._move(name, alias, versions, seen)
            if versions:
                assert owner.claim("photos", owner.read())

    late = Overtaken(registry.lake, Storage())
    with pytest.raises(UserError, match="the alias production was claimed by someone else just now"):
        promoted(late, f"scans@{V1}")
    assert registry.aliases("scans").version("production") is None
    promoted(registry, f"photos@{V2}")
