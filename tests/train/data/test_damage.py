"""Damage in a prepared folder is found before training starts, and never repaired in silence."""

import dataclasses
import os
import random
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support import tiny
from tests.support.data import TEXTS, fails, opening_fails, refused, small_config, write_documents
from tests.support.disks import needs_mounts, on_own_disk, python
from train.data import DataError, open_dataset, prepare
from train.data.preparing import verify
from train.data.preparing.parts import read_info
from train.data.preparing.preparation import prepared_folder
from train.data.preparing.shards import Manifest, ShardWriter
from train.data.preparing.splitting import parts_of
from train.data.preparing.tokenizers import ByteTokenizer
from train.data.preparing.verify import remember
from train.tasks.language_model import check_vocabulary

pytestmark = pytest.mark.faults


@pytest.fixture
def config(tmp_path):
    return small_config(tmp_path)


def touch_byte(path, position, value):
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(content)


@pytest.fixture
def prepared(config):
    prepare(config)
    return prepared_folder(config)


def test_a_flipped_byte_is_found_on_opening(config, prepared):
    path = prepared / "train-00001.bin"
    touch_byte(path, 7, path.read_bytes()[7] ^ 1)
    error = opening_fails(
        config, f"{path}: the content has changed", "delete the folder and prepare again"
    )
    assert error.path == path


def test_a_flipped_byte_is_found_though_the_date_was_set_back(config, prepared):
    path = prepared / "validation-00000.bin"
    stat = path.stat()
    touch_byte(path, 7, path.read_bytes()[7] ^ 1)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    opening_fails(config, f"{path}: the content has changed")


def test_a_byte_that_the_disk_flips_without_a_sign_is_found_on_demand(config, prepared):
    path = prepared / "validation-00000.bin"
    touch_byte(path, 7, path.read_bytes()[7] ^ 1)
    remember(prepared, Manifest.read(prepared))
    dataset = open_dataset(config)
    for look in (dataset.verify, lambda: prepare(config, full=True)):
        refused(look, f"{path}: the content has changed")


def test_a_copied_folder_is_hashed_once_more_and_then_trusted(config, prepared, monkeypatch):
    for path in prepared.glob("*.bin"):
        os.utime(path, (1, 1))
    open_dataset(config)
    monkeypatch.setattr("train.data.preparing.verify._check_content", None)
    open_dataset(config)


def test_a_lost_memory_of_what_was_verified_is_no_harm(config, prepared):
    for content in ("", "[]", '{"train-00000.bin": 3}'):
        (prepared / "verified.json").write_text(content)
        open_dataset(config).verify()


def test_a_file_that_changes_after_it_was_hashed_is_hashed_again(config, prepared, monkeypatch):
    path = prepared / "train-00000.bin"
    (prepared / "verified.json").unlink()
    check_content = verify._check_content

    def changed_behind_its_back(place, *rest):
        check_content(place, *rest)
        if place == path:
            touch_byte(path, 7, path.read_bytes()[7] ^ 1)

    with monkeypatch.context() as patch:
        patch.setattr(verify, "_check_content", changed_behind_its_back)
        open_dataset(config)
    opening_fails(config, f"{path}: the content has changed")


def test_a_kill_while_noting_what_was_verified_leaves_nothing_for_good(config, prepared):
    (prepared / "verified.json").unlink()
    program = (
        "import os\nfrom train.data import *\n"
        "os.replace = lambda *_: os._exit(9)\n"
        f"open_dataset({config!r})"
    )
    assert subprocess.call([sys.executable, "-c", program]) == 9
    open_dataset(config)
    names = {path.name for path in prepared.iterdir() if path.suffix != ".bin"}
    assert names == {"manifest.json", "verified.json"}


@pytest.mark.slow
@needs_mounts
def test_a_folder_on_a_read_only_disk_is_hashed_and_used(config, prepared, tmp_path):
    """As in an image of a container, where no file has the dates that are remembered."""
    disk = tmp_path / "disk"
    disk.mkdir()
    elsewhere = dataclasses.replace(config, cache_dir=str(disk))
    program = f"from train.data import *; open_dataset({elsewhere!r}).verify()"
    done = on_own_disk(
        disk,
        "size=10m",
        shlex.join(["cp", "-r", str(prepared), str(disk)]),
        shlex.join(["mount", "-o", "remount,ro", str(disk)]),
        python("-c", program),
    )
    assert done.returncode == 0, done.stderr


def test_a_shorter_shard_is_found(config, prepared):
    path = prepared / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-3])
    error = opening_fails(config, f"{path}, byte 197:", "has 197 bytes and the manifest says 200")
    assert error.offset == 197


@pytest.mark.parametrize("name", ["train-00000.bin", "manifest.json", "verified.json.new"])
def test_a_link_is_refused(config, prepared, tmp_path, name):
    """What is written through it would go elsewhere."""
    path, elsewhere = prepared / name, tmp_path / "elsewhere"
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.write_text("mine")
    before = elsewhere.read_bytes()
    path.symlink_to(elsewhere)
    (prepared / "verified.json").unlink()
    opening_fails(config, f"{path}: a link, where a file was written; delete the folder")
    assert elsewhere.read_bytes() == before


def test_a_missing_shard_is_found(config, prepared):
    (prepared / "train-00000.bin").unlink()
    opening_fails(config, f"{prepared / 'train-00000.bin'}: missing; delete the folder")


def test_a_token_out_of_the_vocabulary_is_found(config):
    config = dataclasses.replace(config, tokenizer="bpe:260")
    prepare(config)
    path = prepared_folder(config) / "train-00000.bin"
    touch_byte(path, 2 * 123 + 1, 0x7F)
    error = opening_fails(config, f"{path}, token 123:", "is not in the vocabulary of 260 tokens")
    assert (error.offset, error.unit) == (123, "token")


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "", "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: text.replace('"vocab_size": 256', '"vocab_size": "256"'), "vocab_size"),
        (lambda text: text.replace('"vocab_size": 256,', ""), "vocab_size"),
        (lambda text: text.replace('"uint8"', '"object"'), "'object'"),
        (lambda text: text.replace('"schema": 2', '"schema": 3'), "schema 3"),
        (lambda text: text.replace("train-00000.bin", "../../secret"), "../../secret"),
        (lambda text: text.replace("train-00000.bin", "/etc/passwd"), "/etc/passwd"),
        (lambda text: text.replace("train-00000.bin", "train-0000\\n.bin"), r"train-0000\n.bin"),
        (lambda text: text.replace('"tokens": 200', '"tokens": ' + "9" * 400), "without tokens"),
        (lambda text: text.replace('"text_bytes": ', '"text_bytes": -'), "bytes of text"),
        (lambda text: text.replace('"text_bytes": ', '"text_bytes": 1'), "it has been changed"),
        (lambda text: text.replace('"sha256": "', '"sha256": "0'), "is no SHA-256"),
        (lambda text: text.replace('"sha256": "', '"sha256": "NaN\\n'), r"NaN\n"),
        (lambda text: text.replace('"checksum"', '"bhecksum"'), "it has been changed"),
        (lambda text: text.replace('"vocab_size": 256', '"vocab_size": 257'), "vocab_size 257"),
        (lambda text: text.replace('"vocab_size": 256', '"vocab_size": 9'), "vocab_size 9"),
        (lambda text: text.replace('"jsonl', '"\\ud800'), "surrogates"),
        (lambda text: "[" * 100_000, "recursion"),
        (lambda text: "\xff", "damaged"),
        (lambda text: text.replace('"tokens": 200', '"tokens": -200'), "without tokens"),
        (lambda text: text.replace('"documents": ', '"documents": 9999'), "documents in"),
    ],
)
def test_a_damaged_manifest_is_refused(config, prepared, damage, fragment):
    path = prepared / "manifest.json"
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    opening_fails(config, f"{path}: damaged", fragment, "delete the folder and prepare again")


def test_another_tokenizer_in_the_folder_is_refused(config):
    config = dataclasses.replace(config, tokenizer="bpe:260")
    other = open_dataset(dataclasses.replace(config, tokenizer="bpe:261"))
    dataset = open_dataset(config)
    shutil.copy(other.folder / "tokenizer.json", dataset.folder)
    with pytest.raises(DataError, match="not the tokenizer that made the tokens of this folder"):
        _ = dataset.tokenizer


@pytest.mark.parametrize(
    ("asked", "other"), [("bytes", "bpe:260"), ("bpe:260", "bpe:261"), ("bpe:260", "bytes")]
)
def test_a_folder_that_another_tokenizer_made_is_refused(config, asked, other):
    config = dataclasses.replace(config, tokenizer=asked)
    made = open_dataset(dataclasses.replace(config, tokenizer=other))
    shutil.copytree(made.folder, prepared_folder(config))
    sentence = f"made by '{other.replace(':', '-')}' and not by '{asked}'; delete the folder"
    opening_fails(config, sentence)


def test_a_shard_that_another_tokenizer_made_is_refused(config, prepared):
    other = open_dataset(dataclasses.replace(config, tokenizer="bpe:260"))
    shutil.copy(other.folder / "train-00000.bin", prepared)
    opening_fails(config, "train-00000.bin", "delete the folder and prepare again")


def test_a_missing_manifest_is_found(config, prepared):
    (prepared / "manifest.json").unlink()
    opening_fails(config, "manifest.json: missing")


def test_damage_is_reported_and_not_repaired_behind_the_users_back(config, prepared):
    (prepared / "train-00000.bin").write_bytes(b"")
    before = sorted(path.name for path in prepared.iterdir())
    opening_fails(config, "train-00000.bin")
    assert sorted(path.name for path in prepared.iterdir()) == before


@pytest.mark.torture
def test_a_line_of_100_megabytes_is_prepared_in_memory_for_a_few_of_it(tmp_path):
    """Read, decoded, taken apart and encoded, it is there some six times."""
    path = tmp_path / "long.jsonl"
    megabytes = 100
    write_documents(path, ["the quick brown fox jumps " * (megabytes * 2**20 // 26), *TEXTS])
    program = (
        "import resource, sys\n"
        "from train.data import DataConfig, prepare\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "config = DataConfig('jsonl:' + sys.argv[1], cache_dir=sys.argv[2])\n"
        "print(prepare(config, workers=1).train.text_bytes, peak() - before)\n"
    )
    command = [sys.executable, "-c", program, path, tmp_path / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text_bytes, more = map(int, done.stdout.split())
    assert text_bytes > megabytes * 0.99 * 2**20
    assert more < 8 * megabytes


def test_a_line_nested_without_end_is_found(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"[" * 100_000)
    fails(f"jsonl:{path}", f"{path}, byte 14: not a line of JSON", "mend or remove this line")


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", '{"splits": {}}', "\udcff", "\0" * 9])
def test_a_damaged_note_about_a_finished_part_is_as_none(config, prepared, content):
    """What an interrupted call left is a help, and made again where it cannot be read."""
    work = prepared / ".part-of-a-test"
    work.mkdir()
    (work / "00000.part").write_text(content, errors="surrogateescape")
    assert read_info(work, 0, parts_of(config)[0], ByteTokenizer()) is None


def test_tokens_that_change_before_they_are_joined_are_found(config, monkeypatch):
    def full(*_):
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "finish", full)
        opening_fails(config, "cannot be written")
    work = prepared_folder(config).with_name(f".{prepared_folder(config).name}.work")
    path = work / "00000-train.tokens"
    touch_byte(path, 7, path.read_bytes()[7] ^ 1)
    opening_fails(config, f"{path}: changed since it was written; start again.")
    open_dataset(config).verify()


@pytest.mark.parametrize("flipped", range(0, 600, 100))
def test_any_flipped_bit_of_a_packing_is_found(config, flipped):
    config = dataclasses.replace(config, packing="documents")
    dataset = open_dataset(config)
    dataset.validation_batches(2, 40)
    for path in sorted((dataset.folder / "packing-validation-40").iterdir()):
        whole = path.read_bytes()
        place = flipped % len(whole)
        touch_byte(path, place, whole[place] ^ 1)
        refused(lambda: open_dataset(config).validation_batches(2, 40), "damaged; delete this")
        path.write_bytes(whole)
    open_dataset(config).validation_batches(2, 40)


@pytest.mark.torture
def test_a_flipped_bit_of_a_prepared_folder_is_found_or_means_nothing(config, prepared):
    draw = random.Random(seed := random.randrange(2**32))
    print("seed", seed)
    manifest = Manifest.read(prepared)
    for path in [prepared / "manifest.json", *prepared.glob("*.bin")]:
        whole = path.read_bytes()
        for _ in range(200):
            place = draw.randrange(len(whole))
            touch_byte(path, place, whole[place] ^ (1 << draw.randrange(8)))
            # White space means nothing, nor does the name of a field that has its default.
            if path.suffix == ".bin" or still_reads(prepared) != manifest:
                opening_fails(config, str(path))
            path.write_bytes(whole)
    open_dataset(config).verify()


def still_reads(folder):
    try:
        return Manifest.read(folder)
    except DataError:
        return None


def test_a_model_with_fewer_tokens_than_the_data_is_refused_before_training(config, tmp_path):
    dataset = open_dataset(config)
    small = tiny.run_config(tmp_path)
    small = dataclasses.replace(small, model=dataclasses.replace(small.model, vocab_size=255))
    with pytest.raises(ValueError, match="vocab_size=255 is smaller than the 256 tokens of bytes"):
        check_vocabulary(small, dataset)
