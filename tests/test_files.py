"""What the package itself writes to files."""

import pytest

from vision_jax.files import whole_file


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    with whole_file(path) as one, whole_file(path) as other:  # as two processes may
        one.write(b"one")
        other.write(b"other")
        assert not path.exists()
    assert path.read_bytes() == b"one"  # which ends last
    with pytest.raises(KeyboardInterrupt), whole_file(path) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"one" and [path] == list(tmp_path.iterdir())
    with pytest.raises(NotADirectoryError), whole_file(path / "b"):
        pass
