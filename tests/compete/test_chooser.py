"""Which candidates a group of folds chooses among."""

from distracted.compete.candidates import Input, all_candidates
from distracted.compete.chooser import with_fitting_classes
from distracted.compete.value import Evidence

ONE = Input("a", 224)
EVERY = all_candidates([ONE], uneven=True)


def test_uneven_classes_are_drawn_equally_often() -> None:
    even = with_fitting_classes(EVERY, Evidence({(ONE, False): 1.0, (ONE, True): 0.9}))
    plain = with_fitting_classes(EVERY, Evidence({(ONE, False): 1.0}))
    assert [one.even for one in even if not one.is_frozen] == [True] * (len(even) - 1)
    assert [one.even for one in plain if not one.is_frozen] == [False] * (len(plain) - 1)
    assert len(even) == len(plain) == (len(EVERY) + 1) // 2


def test_probes_that_do_clearly_worse_with_even_classes_count() -> None:
    worse, about_equal = (Evidence({(ONE, False): 1.0, (ONE, True): loss}) for loss in (1.2, 1.02))
    assert not any(one.even for one in with_fitting_classes(EVERY, worse))
    assert any(one.even for one in with_fitting_classes(EVERY, about_equal))


def test_where_sampling_is_given_candidates_do_not_differ_in_it() -> None:
    given = all_candidates([ONE], uneven=True, fixed=["training.sampling"])
    assert with_fitting_classes(given, Evidence({(ONE, False): 1.0, (ONE, True): 0.9})) == given
