"""A forecast with round figures, for tests of what is done with one."""

from distracted.submission.expect import Expected

EXPECTED = Expected(
    mean=0.4,
    low=0.2,
    high=0.6,
    oof=0.5,
    single=0.5,
    bagging=-0.1,
    public_low=0.1,
    public_high=0.8,
    prior=2.3,
    num_subjects=5,
    num_test_subjects=10,
    counted="stated",
    unsure_half=0.4,
    sure_half=0.4,
)
