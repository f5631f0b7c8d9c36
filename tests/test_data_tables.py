"""Tables of labels and parts: CelebA's, and what people write themselves; read if it is clear what they say."""

import io

import numpy as np
import pytest
from pictures import PHOTOS, load, write

from common.data import tables
from common.errors import UserError

NAMES = ["a/1.png", "a/2.png", "b/3.png"]
LABELS = [[True, False], [False, True], [True, True]]  # of Smiling and Big Nose


def readers(**files):
    """Readers of tables of these contents, by the names of their files with two underscores for the dot."""
    return {name.replace("__", "."): lambda text=text: io.BytesIO(text.encode()) for name, text in files.items()}


OWN = {
    "quotes": '"image_id","Smiling","Big Nose"\n"1.png","1","-1"\n"2.png","-1","1"\n"3.png","1","1"\n',
    "a pandas index": ",image_id,Smiling,Big Nose\n0,1.png,1,0\n1,2.png,0,1\n2,3.png,1,1\n",
    "words": "file,Smiling,Big Nose\n1.png,True,False\n2.png,false,true\n3.png,TRUE,TRUE\n",
    "floats": "file,Smiling,Big Nose\n1.png,1.0,0.0\n2.png,-1.0,1.0\n3.png,1.0,1.0\n",
    "semicolons": "\ufefffile;Smiling;Big Nose\r\n1.png;1;-1\r\n\r\n2.png;-1;1\r\n3.png;1;1\r\n",
    "tabs, spaces, other pictures": "id\t Smiling\tBig Nose \n3.png\t1 \t 1\n9.png\t7\t7\n2.png\t-1\t1\n1.png\t1\t-1",
    "paths": "file,Smiling,Big Nose\na/1.png,1,-1\na/2.png,-1,1\nb/3.png,1,1\n1.png,-1,-1",
    "img_align_celeba_png": "file,Smiling,Big Nose\n1.jpg,1,-1\n2.jpg,-1,1\n3.jpg,1,1\n",
}


@pytest.mark.parametrize("case", OWN)
def test_labels_are_read_however_they_are_written(case):
    columns, labels = tables.labels(readers(list_attr_celeba__csv=OWN[case]), NAMES)
    assert columns == ["Smiling", "Big Nose"] and labels.tolist() == LABELS


@pytest.mark.parametrize(
    "text",
    [
        "1.png 0\n2.png 1\n3.png 2",
        "image_id,partition\n2.png,1\n3.png,2\n1.png,0",
        "1.png;train\n2.png;val\n3.png;test",
    ],
)
def test_parts_are_read_however_they_are_written(text):
    _, split = tables.split(readers(list_eval_partition__txt=text), NAMES, np.zeros(3, bool))
    assert split.tolist() == [0, 1, 2]


UNCLEAR = [("list_attr_celeba.txt", text) for text in (
    "", "999", "id,A\n1.png,x\n2.png,1\n", "id,A,B\n1.png,,1\n2.png,1,1\n", "2\nA B\n1.png 1 1\n2.png 1\n",
    "1.png,1\n2.png,1\n", "id,A\n1.png\n2.png\n",
)] + [("list_eval_partition.csv", text) for text in ("", "id,partition\n1.png,3\n", "1.png\n")]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), UNCLEAR)
def test_a_table_that_is_unclear_is_named_with_what_is_expected(name, text):
    table = readers(**{name.replace(".", "__"): text})
    with pytest.raises(UserError, match=f"^{name} cannot be used .*: it needs a line of column names, then") as caught:
        tables.labels(table, NAMES), tables.split(table, NAMES, np.zeros(3, bool))
    assert "\n" not in str(caught.value)


OTHER = ["<!DOCTYPE html>\n<html>Quota exceeded</html>", "\0\1\2" * 9, "id,A\nother.png,1", "id,A\n1.png,1\n3.png,-1"]


@pytest.mark.parametrize("text", OTHER)
def test_without_a_row_for_each_picture_no_labels_are_used_and_the_table_is_named(text, capsys):
    assert tables.labels(readers(list_attr_celeba__txt=text), NAMES) == ([], None)
    count = 1 if text == OTHER[-1] else 3
    assert f"list_attr_celeba.txt has no line for {count} of 3 pictures (a/" in capsys.readouterr().err


def test_names_in_any_script_keep_their_labels_and_a_skipped_picture_shifts_none(tmp_path):
    names = ["Zoë.png", "李小龙.png", "Ωμέγα.png", "مرحبا.png", "a b c.png", "😀.png", *list(PHOTOS)[6:]]
    pictures = {f"Köln/{name}": data for name, data in zip(names, PHOTOS.values(), strict=True)}
    labels = {name: len(name) + place & 2 > 0 for place, name in enumerate(names)}
    rows = [f'"{name}",{1 if label else -1}' for name, label in labels.items()]
    files = pictures | {"Köln/040.png": b"", "list_attr_celeba.csv": "\n".join(["id,Smiling", *rows]).encode()}
    found = load(write(tmp_path / "照片.zip", files), tmp_path / "数据")
    assert found.names == sorted(pictures.keys() - {"Köln/040.png"}) and found.title == "照片.zip"
    _, values = tables.labels(found.tables, found.names)
    assert values[:, 0].tolist() == [labels[name[5:]] for name in found.names]
