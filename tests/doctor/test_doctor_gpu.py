"""Graphics cards, judged from their facts."""

from instruct_course.doctor import gpu

T4 = {"name": "T4", "capability": (7, 5), "free": 15e9, "total": 15.8e9}


def judge(**facts):
    """The check of a machine with a sound T4, but for `facts`."""
    sound = {
        "driver": ["T4"],
        "built": "13.0",
        "gpus": [T4],
        "arches": ["sm_75", "sm_80", "compute_90"],
        "hidden": False,
    }
    return gpu.judge_gpus(**sound | facts)


def test_a_gpu_is_judged_by_what_torch_can_do_with_it():
    assert judge().status == "ok"
    assert judge(gpus=[{**T4, "free": 1e8}]).status == "warning"
    old = judge(gpus=[{**T4, "capability": (6, 1)}])
    new = judge(gpus=[{**T4, "capability": (12, 0)}], arches=["sm_75", "sm_90"])
    assert old.status == new.status == "fault"
    assert "CUDA 12.6" in old.mend and "--upgrade torch" in new.mend


def test_no_gpu_is_well_and_one_that_torch_cannot_see_is_not():
    assert judge(driver=[], gpus=[]).status == "ok"
    assert judge(driver=[], built=None, gpus=[], arches=[]).status == "ok"
    processor_build = judge(gpus=[], built=None)
    assert processor_build.status == "warning" and "CUDA 12.6" in processor_build.mend
    assert judge(gpus=[], hidden=True).mend == "unset CUDA_VISIBLE_DEVICES"
    old_driver = judge(gpus=[], error="too old")
    assert old_driver.status == "fault" and "driver" in old_driver.mend
    assert old_driver.found.endswith("cannot use it: too old")


def test_what_a_build_runs_on():
    arches = ["sm_80", "sm_90a", "compute_90"]
    capabilities = ((7, 5), (8, 0), (8, 9), (9, 0), (12, 0))
    assert [gpu.is_built_for(c, arches) for c in capabilities] == [False, True, True, True, True]
    assert not gpu.is_built_for((9, 1), ["sm_90a"])
    assert gpu.is_built_for((9, 0), ["sm_90a"])
