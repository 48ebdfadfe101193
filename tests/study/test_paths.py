"""What trials are called: net, scheme and seed, and the fields in which a study's trials differ beside these."""

from initlab.study.paths import trial_names
from initlab.study.sections import Init, Net
from initlab.study.spec import TrialSpec
from initlab.study.training import Train


def test_a_name_tells_net_scheme_and_seed() -> None:
    specs = [TrialSpec(net=Net(depth=22), seed=1), TrialSpec(net=Net(name="vgg-16"), init=Init(scheme="xavier"))]
    assert trial_names(specs) == ["plain-22 he seed 1", "vgg-16 xavier seed 0"]


def test_a_name_tells_every_other_field_that_differs() -> None:
    specs = [
        TrialSpec(net=Net(name="my:net", options={"hidden": hidden}), train=Train(lr=lr))
        for hidden, lr in ((4, 0.003), (8, 0.01))
    ]
    assert trial_names(specs) == [
        "my:net he seed 0 net.options={'hidden': 4} train.lr=0.003",
        "my:net he seed 0 net.options={'hidden': 8} train.lr=0.01",
    ]
    assert trial_names(specs[:1]) == ["my:net he seed 0"]


def test_a_name_leaves_out_what_goes_with_depth() -> None:
    specs = [
        TrialSpec(net=Net(depth=depth), train=Train(lr=depth / 1000), seed=s) for depth in (22, 30) for s in (0, 1)
    ]
    assert trial_names(specs) == [
        "plain-22 he seed 0",
        "plain-22 he seed 1",
        "plain-30 he seed 0",
        "plain-30 he seed 1",
    ]
    assert trial_names([*specs, TrialSpec(net=Net(depth=30))])[2:] == [
        "plain-30 he seed 0 train.lr=0.03",
        "plain-30 he seed 1 train.lr=0.03",
        "plain-30 he seed 0 train.lr=0.003",
    ]
