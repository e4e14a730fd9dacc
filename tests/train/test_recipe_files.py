"""Recipes that come with the package: by name in any folder, and files that extend others."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deeplab.cli.app import main
from deeplab.errors import UserError
from deeplab.train.recipe import FOLDER, Recipe, read_recipe, recipe_keys, recipe_names


def write(path: Path, **keys: object) -> Path:
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


def test_a_file_that_extends_a_recipe_differs_in_its_own_keys_only(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", extends="own-photos", seed=5, optimise={"steps": 3})
    path = write(
        tmp_path / "own.yaml", extends="base.yaml", optimise={"batch_size": 2}, augment={"crop": [65, 65]}
    )
    found, whole = read_recipe(path), read_recipe("own-photos")
    assert (found.seed, found.optimise.steps, found.optimise.batch_size) == (5, 3, 2)
    values = whole.model_dump()
    values["seed"], values["augment"]["crop"] = 5, (65, 65)
    values["optimise"] |= {"steps": 3, "batch_size": 2}
    assert found == Recipe.model_validate(values)


def test_circles_and_missing_files_are_named(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", extends="two.yaml")
    write(tmp_path / "two.yaml", extends="one.yaml")
    with pytest.raises(UserError, match=r"two\.yaml: extends = 'one\.yaml' leads back"):
        read_recipe(one)
    with pytest.raises(UserError, match=r"missing\.yaml: cannot be read \(No such file"):
        read_recipe(write(tmp_path / "three.yaml", extends="missing.yaml"))
    with pytest.raises(UserError, match="extends = 3; allowed"):
        read_recipe(write(tmp_path / "four.yaml", extends=3))


def test_names_are_the_packages_and_paths_are_written_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "street").mkdir()
    assert read_recipe("street", ["data.root=photos"]).name == "street"
    with pytest.raises(UserError, match=r"no recipe 'streat'; did you mean street"):
        read_recipe("streat")
    with pytest.raises(UserError, match=r"street\.yaml: data\.root is missing; fix: .*data\.root=FOLDER"):
        read_recipe("street")


def test_no_recipe_names_a_folder_outside() -> None:
    for name in recipe_names():
        assert ".." not in Path(recipe_keys(FOLDER / f"{name}.yaml").get("data", {}).get("root", "")).parts


def test_the_command_lists_and_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["recipes"])
    listed = capsys.readouterr().out
    assert all(f" {name} " in listed for name in recipe_names())
    with pytest.raises(SystemExit):
        main(["recipes", "own-photos"])
    assert yaml.safe_load(capsys.readouterr().out) == recipe_keys(FOLDER / "own-photos.yaml")
