import pytest

from afr_clip.processes.place import adopt_srun, first_host, place

STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}


def test_srun_is_understood_as_torchrun_is():
    environment = STEP | {"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "1234567"}
    adopt_srun(environment)
    added = {name: value for name, value in environment.items() if "SLURM" not in name}
    assert added == {
        **{"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "NODE_RANK": "1"},
        **{"MASTER_ADDR": "gpu07", "MASTER_PORT": "24567"},
    }
    assert (place(environment).rank, place(environment).world_size) == (2, 4)


@pytest.mark.parametrize("environment", [{}, STEP | {"SLURM_STEP_NUM_TASKS": "1"}, STEP | {"RANK": "0"}])
def test_what_srun_did_not_start_stays_as_it_is(environment):
    before = dict(environment)
    adopt_srun(environment)
    assert environment == before


@pytest.mark.parametrize(
    ("nodes", "host"), [("a", "a"), ("a,b", "a"), ("n[3,5]", "n3"), ("n[003-005],m1", "n003"), ("x-1,y-2", "x-1")]
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert first_host(nodes) == host
