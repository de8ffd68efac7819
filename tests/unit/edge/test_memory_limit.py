"""The memory limit of the process."""

from sundog_edge.memory_limit import memory_limit_bytes


def test_the_memory_limit_is_the_lower_one_of_container_and_machine(tmp_path):
    machine = memory_limit_bytes(())
    newer, older = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    assert memory_limit_bytes((newer, older)) == machine
    newer.write_text("max\n")
    assert memory_limit_bytes((newer, older)) == machine
    older.write_text(f"{1 << 62}\n")
    assert memory_limit_bytes((newer, older)) == machine
    newer.write_text("1048576\n")
    assert memory_limit_bytes((newer, older)) == 1 << 20
