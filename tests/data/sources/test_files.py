"""Finding files below a root: names in either normal form of Unicode, links, and nothing outside."""

import contextlib
import os
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medmim.data.sources.files import _common_parents, fix_for, folder, link_roots, locate, read_bytes, renaming
from medmim.data.sources.source import BadImage
from medmim.errors import UserError
from medmim.recipe import loading


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "..\\secret.png", "C:/x.png"])
def test_a_path_out_of_the_root_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"pixels")
    with pytest.raises(BadImage, match="leaves the image root"):
        read_bytes(tmp_path / "root", path)


def test_symlinks_may_stay_inside_the_root_but_not_leave_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.png").write_bytes(b"pixels")
    (root / "inside.png").write_bytes(b"pixels")
    (root / "good").symlink_to(root / "inside.png")
    (root / "bad").symlink_to(tmp_path / "outside.png")
    (root / "loop").symlink_to(root / "loop")
    (root / "folder").symlink_to(tmp_path)
    assert read_bytes(root, "good") == b"pixels"
    for path in ("bad", "folder/outside.png"):
        with pytest.raises(BadImage, match="symlink"):
            read_bytes(root, path)
    with pytest.raises(BadImage, match="cannot be opened"):
        read_bytes(root, "loop")


def test_what_is_not_a_regular_file_has_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")  # reading it would hang for ever
    for path, words in (("empty.png", "0 bytes"), ("pipe.png", "not a regular"), (".", "but a folder"), ("", "empty")):
        with pytest.raises(BadImage, match=words):
            read_bytes(tmp_path, path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path, "absent.png")
    with pytest.raises(BadImage, match="cannot be opened"):
        locate(tmp_path, "a\0b.png")


@settings(max_examples=200, deadline=None)
@given(path=st.text(max_size=40))
def test_no_path_reads_outside_the_root(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "paths"
    root.mkdir(exist_ok=True)
    with contextlib.suppress(BadImage, FileNotFoundError):
        assert locate(root, path).is_relative_to(root.resolve())


def linked(root: Path, name: str, target: Path, exists: bool = True) -> None:
    """A symlink below a root, as DVC, git-annex and the Hugging Face cache make them."""
    if exists:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"pixels")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(os.path.relpath(target, (root / name).parent))


LAYOUTS = {
    "Hugging Face": [("snapshots/1/a.png", "blobs/aa"), ("snapshots/1/b.png", "blobs/bb")],
    "DVC": [("data/a.png", "cache/files/md5/0a/aa"), ("data/b.png", "cache/files/md5/1b/bb")],
    "git-annex": [("data/a.png", ".git/annex/objects/w/X/k1/k1"), ("data/b.png", ".git/annex/objects/y/Z/k2/k2")],
    "per patient": [("data/a.png", "raw/p1/x.png"), ("data/b.png", "raw/p2/y.png")],
    "blank in a name": [("data/a.png", "my raw's/x.png"), ("data/b.png", "my raw's/y.png")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_setting_that_the_fix_names_allows_the_links(tmp_path: Path, layout: str) -> None:
    for name, target in LAYOUTS[layout]:
        linked(tmp_path, name, tmp_path / target)
    root = (tmp_path / LAYOUTS[layout][0][0]).parent
    with pytest.raises(BadImage, match="data.link_roots"):
        read_bytes(root, "a.png")
    option, setting = shlex.split(fix_for(root, ["a.png", "b.png"]).removesuffix(" allows the links"))
    assert option == "--set"
    recipe = loading.load("covid", [f"data.root={root}", setting])
    allowed = link_roots(recipe.data.link_roots)
    assert allowed and tmp_path.resolve() not in allowed
    assert [read_bytes(root, name, allowed) for name in ("a.png", "b.png")] == [b"pixels"] * 2
    assert fix_for(root, []) == ""


def test_a_link_elsewhere_stays_refused_and_a_climbing_path_too(tmp_path: Path) -> None:
    linked(tmp_path / "root", "good.png", tmp_path / "cache" / "a")
    linked(tmp_path / "root", "bad.png", tmp_path / "cache-2" / "a")
    linked(tmp_path / "cache", "onward", tmp_path / "secret")
    (tmp_path / "root" / "chain.png").symlink_to(tmp_path / "cache" / "onward")
    allowed = link_roots([str(tmp_path / "cache")])
    assert read_bytes(tmp_path / "root", "good.png", allowed) == b"pixels"
    for path in ("bad.png", "chain.png"):
        with pytest.raises(BadImage, match="symlink"):
            read_bytes(tmp_path / "root", path, allowed)
    for path in ("../cache/a", str(tmp_path / "cache" / "a")):
        with pytest.raises(BadImage, match="leaves the image root"):
            read_bytes(tmp_path / "root", path, allowed)


FOLDERS = st.lists(st.sampled_from(["home", "mnt", "data", "a", "b"]), min_size=1, max_size=4)


@given(st.sets(FOLDERS.map(lambda parts: Path("/", *parts)), min_size=1))
@example({Path("/home/a/x"), Path("/home/b/y")})
@example({Path("/home/a/x"), Path("/mnt/b/y"), Path("/data")})
@example({Path("/mnt/p1"), Path("/mnt/p2")})
def test_no_folder_that_many_share_is_proposed_for_links(places: set[Path]) -> None:
    found = _common_parents(places)
    for place in places:
        assert any(place.is_relative_to(proposed) for proposed in found)
    for proposed in found:
        assert len(proposed.parts) >= 3 or proposed in places
        assert any(place.is_relative_to(proposed) for place in places)


def test_the_proposed_setting_never_allows_everything(tmp_path: Path) -> None:
    """Links into folders of the system, which have nothing but `/` in common."""
    targets = [Path(sys.executable).resolve(), Path("/etc/passwd"), Path("/proc/version"), Path(os.__file__)]
    for number, target in enumerate(targets):
        (tmp_path / f"{number}.png").symlink_to(target)
    paths = [f"{number}.png" for number in range(len(targets))]
    _, setting = shlex.split(fix_for(tmp_path, paths).removesuffix(" allows the links"))
    allowed = link_roots(loading.load("covid", [f"data.root={tmp_path}", setting]).data.link_roots)
    assert Path("/") not in allowed and Path("/usr") not in allowed
    assert all(any(target.resolve().is_relative_to(place) for place in allowed) for target in targets)


def test_of_very_many_folders_some_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medmim.data.sources.files._NARROW", 99)
    for number in range(30):
        linked(tmp_path / "root", f"{number}.png", tmp_path / f"p{number}" / "x.png")
    fix = fix_for(tmp_path / "root", [f"{number}.png" for number in range(30)])
    assert fix.endswith("allows the links into the first 10 of 30 folders") and fix.count(str(tmp_path)) == 10


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (".git/annex/objects/w/X/k/k", "git annex get"),
        (".dvc/cache/files/md5/0a/aa", "dvc pull"),
        ("blobs/aa", "which is missing"),
    ],
)
def test_a_link_to_nothing_is_missing_and_the_fix_says_what_fetches_it(tmp_path: Path, target: str, words: str) -> None:
    linked(tmp_path / "root", "a.png", tmp_path / target, exists=False)
    with pytest.raises(FileNotFoundError):
        locate(tmp_path / "root", "a.png")
    assert words in fix_for(tmp_path / "root", ["a.png", "plainly absent.png", "../x", "a\0b", "\ud83d.png"])


@pytest.mark.parametrize(
    ("beside", "command"),
    [
        ("images/a.png.dvc", "dvc pull a.png.dvc"), ("images.dvc", "dvc pull images.dvc"),
        ("images.zip", "unzip images.zip"), ("images.tar.gz", "tar -xf images.tar.gz"),
        ("images/a.png.gz", "gunzip a.png.gz"), ("images.7z", "7z x images.7z"),
    ],
)  # fmt: skip
def test_what_lies_packed_beside_a_missing_file_is_noticed(tmp_path: Path, beside: str, command: str) -> None:
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).touch()
    place = (tmp_path / beside).parent
    assert fix_for(tmp_path, ["images/a.png", "images/b.png"]) == f"`cd {place} && {command}`"
    assert fix_for(tmp_path, ["films/a.png", "../images/a.png"]) == ""


def test_an_archive_that_has_the_name_of_a_folder_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"PK\3\4....")
    assert "images is a zip archive where a folder is meant" in fix_for(tmp_path, ["images/a.png"])


@pytest.mark.parametrize("place", ["/", "//", "/..", "absent", "file", ""])
def test_a_link_root_is_a_folder_and_not_everything(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    given = place if not place or place.startswith("/") else str(tmp_path / place)
    with pytest.raises(UserError, match="link_roots"):
        link_roots(
            loading.validate(
                {"name": "x", "data": {"source": "phantom", "link_roots": [given]}}, "test"
            ).data.link_roots
        )


NAMES = [
    "R\u00f6ntgen 1.png",
    "\u00e9t\u00e9/\u00e0.png",
    "\u1e9b\u0323.png",
    "\ud55c\uae00.png",
    "\u304c\u304e/\u30d1.png",
]
FORMS = ("NFC", "NFD")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("disk", FORMS)
@pytest.mark.parametrize("listed", FORMS)
def test_one_name_in_two_normal_forms_is_one_file(tmp_path: Path, name: str, disk: str, listed: str) -> None:
    path = tmp_path / unicodedata.normalize(disk, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"pixels")
    assert read_bytes(tmp_path, unicodedata.normalize(listed, name)) == b"pixels"


def test_a_folder_and_its_file_may_be_in_different_forms(tmp_path: Path) -> None:
    place = tmp_path / "e\u0301t\u00e9"
    place.mkdir()
    (place / "\u00e0.png").write_bytes(b"pixels")
    assert read_bytes(tmp_path, "\u00e9t\u00e9/a\u0300.png") == b"pixels"
    assert folder(str(tmp_path / "\u00e9te\u0301"), "data.root").samefile(place)


def test_two_files_of_one_name_are_ambiguous_unless_they_are_one(tmp_path: Path) -> None:
    for form in FORMS:
        (tmp_path / unicodedata.normalize(form, "\u00e9.png")).write_bytes(form.encode())
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes both for one name")
    for form in FORMS:
        with pytest.raises(BadImage, match="two files have this name"):
            locate(tmp_path, unicodedata.normalize(form, "\u00e9.png"))
    (tmp_path / "e\u0301.png").unlink()
    (tmp_path / "e\u0301.png").symlink_to("\u00e9.png")
    assert read_bytes(tmp_path, "e\u0301.png") == b"NFC"


def test_a_file_where_a_folder_is_meant_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").touch()
    with pytest.raises(UserError, match="metadata.csv is a file, not a folder") as caught:
        folder(str(tmp_path / "metadata.csv"), "data.root")
    assert caught.value.fix == f"--set data.root={tmp_path}"


KEYS = ["data.root", "data.annotations", "data.link_roots"]
NO_FOLDER = {
    "long name": "x" * 300, "long name below": "/tmp/" + "\u00fc" * 200 + "/images", "long path": "/a" * 3000,
    "long and relative": "a/" * 2500, "long with a tilde": "~/" + "y" * 999,
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", NO_FOLDER)
def test_a_text_that_is_too_long_for_a_folder_is_an_error_of_its_key(name: str, key: str) -> None:
    with pytest.raises(UserError, match=key) as caught:
        folder(NO_FOLDER[name], key)
    assert len(caught.value.fact) < 200 and f"--set {key}=" in caught.value.fix.replace("'", "")
    assert caught.value.exit_code == 2 and "--home" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_is_an_error_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(UserError, match="data.root: .* cannot be opened"):
        folder(str(tmp_path / "locked" / "images"), "data.root")


@pytest.mark.parametrize("relative", [False, True])
def test_folders_of_one_name_in_two_forms_are_an_error_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    for form in FORMS:
        (tmp_path / unicodedata.normalize(form, "caf\u00e9")).mkdir()
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes both for one name")
    monkeypatch.chdir(tmp_path)
    for key in KEYS:
        for name in ("caf\u00e9/images", "cafe\u0301/images"):
            with pytest.raises(UserError, match=f"{key}: .* names two folders") as caught:
                folder(name if relative else str(tmp_path / name), key)
            assert "NFC" in caught.value.reason and key in caught.value.fix and caught.value.exit_code == 2


def test_a_relative_folder_is_found_in_either_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cafe\u0301" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folder("caf\u00e9/images", "data.root").samefile(tmp_path / "cafe\u0301" / "images")


NAMED = {  # a name in a list -> what the fix says of it
    "images//srv/x/p10v0.png": "'/srv/x/p10v0.png' is an absolute path: there is images/p10v0.png",
    "images//srv/x/none.png": "'/srv/x/none.png' is an absolute path: name files as seen from ROOT",
    "images/C:\\data\\p10v0.png": "'C:\\data\\p10v0.png' is an absolute path: there is images/p10v0.png",
    "images/\\\\server\\share\\n.png": "'\\\\server\\share\\n.png' is an absolute path: name files as seen from ROOT",
    "images/~/p10v0.png": "'~/p10v0.png' is an absolute path: there is images/p10v0.png",
    "images/https://h/a/p10v0.png?raw=1": "'https://h/a/p10v0.png?raw=1' is a URL: there is images/p10v0.png",
    "images/s3://b/x.png": "'s3://b/x.png' is a URL: save what it leads to below ROOT, and name that file",
    "https://h/x.png": "'https://h/x.png' is a URL: save what it leads to below ROOT, and name that file",
    "images/file:///srv/p10v0.png": "'file:///srv/p10v0.png' is a URL: there is images/p10v0.png",
    "images/data:image/png;base64,iVBO": "'data:image/png;base64,iVBO' is a URL: save what it leads to below ROOT, and "
    "name that file",
    "images/P10V0.PNG": "there is images/p10v0.png, not images/P10V0.PNG",
    "Images/p10v0.png": "there is images/p10v0.png, not Images/p10v0.png",
    "images/p10v0.jpg": "there is images/p10v0.png, not images/p10v0.jpg",
    "images/p10v0": "there is images/p10v0.png, not images/p10v0",
    "images/p10v0.nii.gz": "",
    "images/images/p10v0.png": "there is images/p10v0.png, not images/images/p10v0.png",
    "cohort/images/p10v0.png": "there is images/p10v0.png, not cohort/images/p10v0.png",
    "p10v0.png": "",
    "images/ct\\s1.jpeg": "there is images/ct/s1.jpeg, not images/ct\\s1.jpeg",
    "images/CT/S1.JPG": "there is images/ct/s1.jpeg, not images/CT/S1.JPG",
    "images/cafe\u0301.PNG": "there is images/caf\u00e9.png, not images/cafe\u0301.PNG",
    "images/two.png": "",  # of two.jpg and two.tif, who knows?
    "images/plainly absent.png": "",
    "../images/p10v0.png": "",
    "images/p10v0.png": "",
    "images/notes": "",
}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_from_another_place_is_said_to_be_so_and_what_is_there_is_named(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data set"
    for path in ("p10v0.png", "ct/s1.jpeg", "caf\u00e9.png", "two.jpg", "two.tif", "notes.txt"):
        (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / path).write_bytes(b"pixels")
    assert fix_for(root, [name]) == NAMED[name].replace("ROOT", str(root))


def test_of_many_names_some_are_quoted(tmp_path: Path) -> None:
    assert fix_for(tmp_path, [f"https://h/{number}.png" for number in range(500)]).count("is a URL") == 3


@settings(max_examples=200, deadline=None)
@given(path=st.text("aA/\\:~.?p\0\ud800", max_size=20) | st.text(max_size=20))
def test_any_name_has_a_fix_or_none(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "names"
    (root / "a").mkdir(parents=True, exist_ok=True)
    (root / "a" / "p.png").touch()
    fix_for(root, [path])


@pytest.mark.parametrize(
    "name", ["List.CSV", "LIST.csv", "list (1).csv", "list(2).csv", "list.csv.txt", "list.csv.csv", "List.csv.TXT"]
)
def test_a_file_under_nearly_its_name_is_renamed_by_the_command(tmp_path: Path, name: str) -> None:
    place = tmp_path / "it's here"
    place.mkdir()
    (place / name).write_text("x")
    for other in ("mylist.csv", "list.tsv", "list.csv.gz", "list-2.csv"):
        (place / other).touch()
    command = renaming(place, "list.csv").strip("`")
    subprocess.run(["sh", "-c", command], check=True)
    assert (place / "list.csv").read_text() == "x"
    for other in ("LIST.Csv", "list.csv.txt"):
        (place / other).touch()
    (place / "list.csv").unlink()
    assert renaming(place, "list.csv") == ""


@pytest.mark.parametrize("length", [1, 2, 3])
def test_links_in_a_circle_are_said_to_be_so(tmp_path: Path, length: int) -> None:
    for number in range(length):
        (tmp_path / f"{number}.png").symlink_to(f"{(number + 1) % length}.png")
    assert fix_for(tmp_path, ["0.png"]) == (
        f"the link {tmp_path / '0.png'} leads back to itself: put the file in its place"
    )


def test_the_home_in_a_key_of_the_recipe_is_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cache").mkdir()
    assert link_roots(["~/cache", "~"]) == (tmp_path / "cache", tmp_path)
    for key in KEYS:
        assert folder("~/cache", key) == tmp_path / "cache"
