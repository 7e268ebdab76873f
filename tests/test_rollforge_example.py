from rollforge_example.memory import Example

from rollforge.testing import check_memory


def test_it_keeps_the_rules_of_a_memory() -> None:
    check_memory(Example)
